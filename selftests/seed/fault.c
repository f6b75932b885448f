// SPDX-License-Identifier: GPL-2.0
#include <linux/bug.h>
#include <linux/slab.h>
#include <linux/string.h>

size_t seed_fault(size_t len);

static noinline void big_frame(volatile char *out, size_t len)
{
	volatile char frame[1500];

	memset((void *)frame, 1, sizeof(frame));
	*out = frame[len];
}

/* A warning, 64 leaked objects of 8 KiB, and a frame of 1.5 KiB. */
size_t seed_fault(size_t len)
{
	char c;
	int i;

	big_frame(&c, len);
	for (i = 0; i < 64; i++) {
		void *volatile lost = kmalloc(8192, GFP_KERNEL);

		WARN_ON(!lost);
	}
	WARN(c == 1, "seeded warning\n");
	return c;
}
