// SPDX-License-Identifier: GPL-2.0
#include <linux/bug.h>
#include <linux/gfp.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>
#include <linux/string.h>

size_t seed_fault(size_t len);

static noinline void big_frame(volatile char *out, size_t len)
{
	volatile char frame[1500];

	memset((void *)frame, 1, sizeof(frame));
	*out = frame[len];
}

/* "small": leaks a page and an object; "vcpu": as much as a vCPU takes. Nothing else then. */
static char *leak = "";
module_param(leak, charp, 0);

/* A warning, 64 leaked objects of 8 KiB, and a frame of 1.5 KiB. */
size_t seed_fault(size_t len)
{
	void *volatile lost[2];
	char c;
	int i;

	if (*leak) {
		lost[0] = strcmp(leak, "small") ? kmalloc(42 << 10, GFP_KERNEL) : alloc_page(GFP_KERNEL);
		lost[1] = strcmp(leak, "small") ? lost[0] : kmalloc(64, GFP_KERNEL);
		return lost[0] && lost[1];
	}
	big_frame(&c, len);
	for (i = 0; i < 64; i++) {
		lost[0] = kmalloc(8192, GFP_KERNEL);
		WARN_ON(!lost[0]);
	}
	WARN(c == 1, "seeded warning\n");
	return c;
}
