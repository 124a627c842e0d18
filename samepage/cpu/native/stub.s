# The stub: an address space in which a guest's code runs on the processor itself.
#
# It is a process with nothing mapped but one page of this code, the control memory that follows
# it, and frames of the machine's RAM. Whatever ends the guest's run is a signal, whose frame the
# host's kernel writes into the control memory; `handler` reports that with a byte into a pipe,
# waits for one, makes the system calls that the engine has listed, and returns to the guest.
#
# Nothing here is secret, and a guest that jumps into it gains nothing: the seccomp filter
# (filter.py) lets the calls below pass only with a key in their fifth argument, which is in the
# control memory only while the guest does not run. Nor does the handler trust a register.
#
# One file of flat binary with its own ELF header, so that nothing but `as` and `ld` makes it, byte
# by byte the same (tests/cpu/native/test_stub.py):
#
#     as -o stub.o stub.s && ld -Ttext=0 --oformat binary -o stub.bin stub.o

	.set CODE_SIZE, 0x1000
	.set CONTROL_SIZE, 0x20000

	# Words of the control memory (control.py).
	.set KEY, 0x00
	.set N_CALLS, 0x08
	.set FRAME, 0x10
	.set SET_BASES, 0x18
	.set FS, 0x20
	.set GS, 0x28
	.set ERROR, 0x30
	.set BELL, 0x38
	.set SIGNAL_STACK, 0x40		# a stack_t
	.set ACTION, 0x58		# a struct kernel_sigaction
	.set FILTER, 0x78		# a struct sock_fprog
	.set BASE, 0x88			# where the code page goes
	.set BELOW, 0x90		# the size of what is below, and the start and size of what is above
	.set ABOVE, 0x98
	.set ABOVE_SIZE, 0xa0
	.set REPORTED_FRAME, 0xa8
	.set CALLS, 0x10000
	.set CALL_SIZE, 56

	.set SYS_READ, 0
	.set SYS_WRITE, 1
	.set SYS_MMAP, 9
	.set SYS_MUNMAP, 11
	.set SYS_RT_SIGACTION, 13
	.set SYS_RT_SIGRETURN, 15
	.set SYS_EXIT, 60
	.set SYS_SIGALTSTACK, 131
	.set SYS_PRCTL, 157
	.set SYS_SECCOMP, 317
	.set SYS_CLOSE_RANGE, 436

	.set RAM_FD, 3
	.set CONTROL_FD, 4
	.set CODE_FD, 5

	.set ORIGIN, 0x10000		# where exec puts this file

	.text
	.globl _start
_start:
	# The ELF header, and one program header.
	.byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0
	.quad handler - _start		# in padding, for the engine
	.word 2, 62			# ET_EXEC, EM_X86_64
	.long 1
	.quad ORIGIN + entry - _start
	.quad segment - _start, 0
	.long 0
	.word 64, 56, 1, 0, 0, 0
segment:
	.long 1, 5			# PT_LOAD, readable and executable
	.quad 0, ORIGIN, ORIGIN
	.quad end - _start, end - _start
	.quad 0x1000

entry:
	# Die with the engine; keep no other descriptor than the pipe's ends and the memory.
	mov $SYS_PRCTL, %eax
	mov $1, %edi			# PR_SET_PDEATHSIG
	mov $9, %esi			# SIGKILL
	syscall
	# The control memory first to any address, since it holds the one to go to.
	mov $SYS_MMAP, %eax
	xor %edi, %edi
	mov $CONTROL_SIZE, %esi
	mov $3, %edx
	mov $1, %r10d			# MAP_SHARED
	mov $CONTROL_FD, %r8d
	xor %r9d, %r9d
	syscall
	cmp $-4096, %rax
	ja fail
	mov BASE(%rax), %r12
	mov $SYS_MMAP, %eax
	mov %r12, %rdi
	mov $CODE_SIZE, %esi
	mov $5, %edx
	mov $0x100001, %r10d		# MAP_SHARED | MAP_FIXED_NOREPLACE
	mov $CODE_FD, %r8d
	syscall
	cmp %r12, %rax
	jne fail
	mov $SYS_MMAP, %eax
	lea CODE_SIZE(%r12), %rdi
	mov $CONTROL_SIZE, %esi
	mov $3, %edx
	mov $CONTROL_FD, %r8d
	syscall
	lea CODE_SIZE(%r12), %rbx
	cmp %rbx, %rax
	jne fail
	mov $SYS_CLOSE_RANGE, %eax
	mov $4, %edi
	mov $-1, %esi
	xor %edx, %edx
	syscall
	mov $SYS_CLOSE_RANGE, %eax
	mov $2, %edi
	mov $2, %esi
	syscall
	lea moved - _start(%r12), %rax
	jmp *%rax

moved:
	# In the page where the code stays. All else goes: the host's vDSO, the stack, the above.
	mov $SYS_MUNMAP, %eax
	xor %edi, %edi
	mov BELOW(%rbx), %rsi
	syscall
	test %rax, %rax
	jnz fail
	mov $SYS_MUNMAP, %eax
	mov ABOVE(%rbx), %rdi
	mov ABOVE_SIZE(%rbx), %rsi
	syscall
	test %rax, %rax
	jnz fail
	mov $SYS_SIGALTSTACK, %eax
	lea SIGNAL_STACK(%rbx), %rdi
	xor %esi, %esi
	syscall
	test %rax, %rax
	jnz fail
	lea signals(%rip), %r13
next_signal:
	mov $SYS_RT_SIGACTION, %eax
	movzbl (%r13), %edi
	test %edi, %edi
	jz all_signals
	lea ACTION(%rbx), %rsi
	xor %edx, %edx
	mov $8, %r10d
	syscall
	test %rax, %rax
	jnz fail
	inc %r13
	jmp next_signal
all_signals:
	mov $SYS_PRCTL, %eax
	mov $26, %edi			# PR_SET_TSC
	mov $2, %esi			# PR_TSC_SIGSEGV
	syscall
	test %rax, %rax
	jnz fail
	mov $SYS_PRCTL, %eax
	mov $38, %edi			# PR_SET_NO_NEW_PRIVS
	mov $1, %esi
	xor %edx, %edx
	xor %r10d, %r10d
	xor %r8d, %r8d
	syscall
	test %rax, %rax
	jnz fail
	mov $SYS_SECCOMP, %eax
	mov $1, %edi			# SECCOMP_SET_MODE_FILTER
	mov $4, %esi			# SECCOMP_FILTER_FLAG_SPEC_ALLOW: at the processor's full speed
	lea FILTER(%rbx), %rdx
	syscall
	test %rax, %rax
	jnz fail
	mov $0xfff, %eax		# refused by the filter: the first signal
	syscall
fail:
	mov $SYS_EXIT, %eax
	mov $1, %edi
	syscall
	ud2

	# Ill, trap, bus, fpe, usr1, segv, sys.
signals:
	.byte 4, 5, 7, 8, 10, 11, 31, 0

	.balign 16
	.globl handler
handler:
	lea control(%rip), %rbx
	mov %rdx, REPORTED_FRAME(%rbx)
	rdfsbase %rax
	mov %rax, FS(%rbx)
	rdgsbase %rax
	mov %rax, GS(%rbx)
report:
	mov $SYS_WRITE, %eax
	mov $1, %edi
	lea BELL(%rbx), %rsi
	mov $1, %edx
	syscall
	xor %eax, %eax			# SYS_READ
	xor %edi, %edi
	syscall
	cmp $1, %rax
	jne gone
	mov KEY(%rbx), %r15
	movq $0, KEY(%rbx)
	mov N_CALLS(%rbx), %r12
	lea CALLS(%rbx), %r13
	test %r12, %r12
	jz calls_done
next_call:
	mov (%r13), %rax
	mov 8(%r13), %rdi
	mov 16(%r13), %rsi
	mov 24(%r13), %rdx
	mov 32(%r13), %r10
	mov 40(%r13), %r8
	mov 48(%r13), %r9
	or %r15, %r8
	syscall
	cmp $-4096, %rax
	ja call_failed
	add $CALL_SIZE, %r13
	dec %r12
	jnz next_call
calls_done:
	mov SET_BASES(%rbx), %rax
	cmp $2, %rax			# nothing but the calls was asked for
	je report
	test %rax, %rax
	jz resume
	mov FS(%rbx), %rax
	wrfsbase %rax
	mov GS(%rbx), %rax
	wrgsbase %rax
resume:
	mov FRAME(%rbx), %rsp
	mov %r15, %r8
	mov $SYS_RT_SIGRETURN, %eax
	syscall
gone:
	ud2				# every signal is blocked: the end of this process
call_failed:
	neg %rax
	mov %rax, ERROR(%rbx)
	jmp report

end:
	.org CODE_SIZE
control:
