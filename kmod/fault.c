// SPDX-License-Identifier: GPL-2.0-only
/* fault: nothing in, whether to fail out. Part of the module in tests alone. */
#include <linux/module.h>
#include "fault.h"

static unsigned int fault_at;
module_param(fault_at, uint, 0600);

/* Context: any that may be asked to fail; requests are one at a time. */
bool kerninst_fault(void)
{
	if (!fault_at || --fault_at)
		return false;
	pr_info("kerninst: failing in %pS\n", __builtin_return_address(0));
	return true;
}
