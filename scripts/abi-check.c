// SPDX-License-Identifier: GPL-2.0
/*
 * Compares rust/model/abi with a kernel's own <linux/kvm.h> and its paravirtual headers: every
 * size, offset, ioctl command and constant is an assertion for the compiler. It is compiled and
 * never run; see abi-check.sh.
 */
#include <errno.h>
#include <stddef.h>
#include <linux/kvm.h>
#include <linux/kvm_para.h>

typedef __u8 u8;
typedef __s8 s8;
typedef __u32 u32;
typedef __u64 u64;
#include <asm/pvclock-abi.h>

#define STRUCT(type, size) \
	_Static_assert(sizeof(type) == (size), "size of " #type);
#define FIELD(type, field, at) \
	_Static_assert(offsetof(type, field) == (at), "offset of " #type "::" #field);
#define MEMBER(type, member, size) \
	_Static_assert(sizeof(((type *)0)->member) == (size), "size of " #type "::" #member);
#define MEMBER_FIELD(type, member, field, at)						\
	_Static_assert(offsetof(type, member.field) - offsetof(type, member) == (at),	\
		       "offset of " #type "::" #member "." #field);
#define VALUE(name, value) \
	_Static_assert((unsigned long long)(name) == (value), "value of " #name);

#include ABI_TABLE
