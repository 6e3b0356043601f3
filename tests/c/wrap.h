/*
 * wrap.h - calls that the linker puts ours in place of (--wrap): allocations are counted, and the
 * kernel may be told to refuse superpackets, or to be slow.
 */
#ifndef TNL_TEST_WRAP_H
#define TNL_TEST_WRAP_H

#include <stdbool.h>
#include <stdint.h>

/* Calls of the allocator: from anywhere, and from threads inside tnl_run(). */
extern uint64_t allocations, engine_allocations;
extern _Thread_local bool inside_engine;

/* What superpackets are refused with: none when zero. Set while no engine runs. */
extern int refuse_runs, refuse_frames;

/* Each receive takes so much longer. Set while no engine runs. */
extern int receive_ms;

#endif
