/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guest: one loop per exit, in 64-bit mode, position-independent. Each round reads the
 * time-stamp counter before and after and stores the difference, so that a tick of the host spoils
 * one round and not the median.
 *
 * RDI: where the results go. RSI: rounds. R9: an address, R13: what to add to it each round.
 * R12: set by the interrupt handlers. The end is a byte to port 0x99.
 */
	.section .rodata.guest, "a"
	.balign 64
	.globl bench_guest_start
bench_guest_start:

.macro now reg
	rdtsc
	shl	rdx, 32
	lea	\reg, [rax + rdx]
.endm

.macro done
	out	0x99, al
	ud2
.endm

/* The loop around \op. */
.macro bench name, op:vararg
	.globl guest_\name
guest_\name:
1:	now	r8
	\op
	now	rax
	sub	rax, r8
	mov	[rdi], rax
	add	rdi, 8
	dec	rsi
	jnz	1b
	done
.endm

.macro x2apic reg, value
	mov	ecx, 0x800 + \reg
	mov	eax, \value
	xor	edx, edx
	wrmsr
.endm

	bench	empty
.macro op_cpuid
	mov	eax, 1
	xor	ecx, ecx
	cpuid
.endm
	bench	cpuid, op_cpuid
.macro op_rdmsr
	mov	ecx, 0xc0000080
	rdmsr
.endm
	bench	rdmsr, op_rdmsr
/* IA32_PAT, to the value it has. */
.macro op_wrmsr
	mov	ecx, 0x277
	mov	eax, 0x00070406
	mov	edx, 0x00070406
	wrmsr
.endm
	bench	wrmsr, op_wrmsr
.macro op_in_kernel
	in	al, 0x21
.endm
	bench	in_kernel, op_in_kernel
.macro op_out_kernel
	mov	al, 0xff
	out	0x21, al
.endm
	bench	out_kernel, op_out_kernel
.macro op_in_user
	in	al, 0x80
.endm
	bench	in_user, op_in_user
.macro op_out_user
	out	0x80, al
.endm
	bench	out_user, op_out_user
.macro op_load
	mov	eax, [r9]
.endm
	bench	load, op_load
.macro op_store
	mov	[r9], eax
.endm
	bench	store, op_store
.macro op_notify
	mov	edx, 0x510
	out	dx, ax
.endm
	bench	notify, op_notify
/* One page or large page further each time. */
.macro op_touch
	mov	[r9], al
	add	r9, r13
.endm
	bench	touch, op_touch

/* An interrupt to itself, taken at once; its handler ends it. */
.macro op_self
	x2apic	0x3f, 0x40
.endm
	bench	self, op_self
/* The same, pending while the processor halts. */
.macro op_hlt
	cli
	x2apic	0x3f, 0x40
	sti
	hlt
.endm
	bench	hlt, op_hlt
/* To vCPU 1, which halts, and back from there. */
.macro op_ping
	cli
	xor	r12d, r12d
	mov	ecx, 0x830
	mov	eax, 0x41
	mov	edx, 1
	wrmsr
2:	sti
	hlt
	cli
	test	r12d, r12d
	jz	2b
.endm
	bench	ping, op_ping

/* A deadline that is far away, written again and again. */
.macro op_arm
	mov	ecx, 0x6e0
	mov	eax, 0
	mov	edx, 0x7fff
	wrmsr
.endm
	bench	arm, op_arm

/* Waits for the timer; the three instructions of each turn are taken off again. */
.macro wait_timer
	xor	r10d, r10d
2:	add	r10, 1
	test	r12d, r12d
	jz	2b
	lea	r10, [r10 + 2 * r10]
	add	r8, r10
.endm
.macro op_deadline
	xor	r12d, r12d
	rdtsc
	add	eax, 40000
	adc	edx, 0
	mov	ecx, 0x6e0
	wrmsr
	wait_timer
.endm
	bench	deadline, op_deadline
.macro op_oneshot
	xor	r12d, r12d
	x2apic	0x38, 40000
	wait_timer
.endm
	bench	oneshot, op_oneshot

/* vCPU 1 of ping: halts; its handler counts. */
	.globl guest_pong
guest_pong:
1:	sti
	hlt
	cli
	test	rsi, rsi
	jnz	1b
	done

/* Before the rest: x2APIC mode, software-enabled, timer one-shot (R9 = 0) or by deadline. */
	.globl guest_apic
guest_apic:
	mov	ecx, 0x1b
	rdmsr
	or	eax, 0xc00
	wrmsr
	x2apic	0x0f, 0x1ff
	x2apic	0x3e, 0x0b
	x2apic	0x32, 0x43
	test	r9, r9
	jz	1f
	x2apic	0x32, 0x40043
1:	sti
	done

/* Interrupt 0x40, 0x42, 0x43: note it, end it. */
	.globl guest_irq
guest_irq:
	push	rax
	push	rcx
	push	rdx
	mov	r12d, 1
	x2apic	0x0b, 0
	pop	rdx
	pop	rcx
	pop	rax
	iretq

/* Interrupt 0x41, on vCPU 1: answer with 0x42 to vCPU 0. */
	.globl guest_irq_pong
guest_irq_pong:
	x2apic	0x0b, 0
	dec	rsi
	mov	ecx, 0x830
	mov	eax, 0x42
	xor	edx, edx
	wrmsr
	iretq

	.globl bench_guest_end
bench_guest_end:
	.previous
