"""What differs between versions of Linux, in one record: `KernelRules`.

    record      the rules, one field each
    changes     for each field: the version and commit that changed it, and what it changed
    choose      the rules of a release, as `uname` prints it, or as a user names it

The model is one kernel, that of 6.18; where an older one did otherwise, the code asks a field of
this record, and nothing else asks for a version.
"""

from samepage.kernel.rules.choose import KNOWN, named_rules, rules_of
from samepage.kernel.rules.record import NEWEST, KernelRules

__all__ = ["KNOWN", "NEWEST", "KernelRules", "named_rules", "rules_of"]
