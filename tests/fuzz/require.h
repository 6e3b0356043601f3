/*
 * require.h - a property that must hold for every input; libFuzzer reports the abort.
 */
#ifndef TNL_FUZZ_REQUIRE_H
#define TNL_FUZZ_REQUIRE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
