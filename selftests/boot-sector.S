/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The boot sector of the boot "disk" in selftests/boots-bochs.tsv: a guest that never leaves real
 * mode and does everything by the firmware's services. It reads the sector behind it in two ways
 * (INT 13h), waits for the clock's interrupt, and shows each character on the screen that the
 * video option ROM set up (INT 10h), reads it back from there and sends it to the serial port
 * (INT 14h). Then it powers off. run-boots.sh assembles it and appends the text.
 */
	.code16
	.globl	_start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	sti
	cld
	movb	%dl, drive
	movw	$0x00e3, %ax			/* serial port: 9600 8n1 */
	xorw	%dx, %dx
	int	$0x14

	movw	$packet, %si			/* by block number, to 0x8000 */
	movb	$0x42, %ah
	movb	drive, %dl
	int	$0x13
	jc	fail
	movw	$0x0201, %ax			/* by cylinder, head and sector, to 0x8200 */
	movw	$2, %cx
	xorb	%dh, %dh
	movb	drive, %dl
	movw	$0x8200, %bx
	int	$0x13
	jc	fail
	movw	$0x8000, %si
	movw	$0x8200, %di
	movw	$256, %cx
	repe cmpsw
	jne	fail

	movl	0x46c, %eax			/* two ticks of the clock */
	addl	$2, %eax
1:	hlt
	cmpl	%eax, 0x46c
	jb	1b

	movw	$3, %ax				/* text mode: clears the screen */
	int	$0x10
	movw	$0x8000, %si
	call	print
off:	movw	$0x604, %dx			/* ICH9: PM1a control, soft off */
	movw	$0x2000, %ax
	outw	%ax, %dx
	cli
	hlt
fail:	movw	$sorry, %si
	call	print
	jmp	off

print:	lodsb
	testb	%al, %al
	jz	2f
	movb	$0x09, %ah			/* to where the cursor is */
	movw	$7, %bx
	movw	$1, %cx
	int	$0x10
	movb	$0x08, %ah			/* what is there? */
	xorb	%bh, %bh
	int	$0x10
	movb	$1, %ah
	xorw	%dx, %dx
	int	$0x14
	jmp	print
2:	ret

sorry:	.asciz	"GUEST-FAIL disk\r\n"
drive:	.byte	0
	.balign	4
packet:	.byte	16, 0
	.word	1, 0x8000, 0
	.quad	1
	.org	510
	.word	0xaa55
