"""Capabilities (include/uapi/linux/capability.h)."""

CAP_LAST_CAP = 40
"""CAP_CHECKPOINT_RESTORE."""

ALL_CAPABILITIES = (1 << CAP_LAST_CAP + 1) - 1
"""The set of all: bit n is capability n."""
