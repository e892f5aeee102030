/* probe_impl.h - what sanitizers cannot see of the kernel's work, told to them. Nothing in other builds. */
#ifndef KVD_LOOP_PROBE_IMPL_H
#define KVD_LOOP_PROBE_IMPL_H

#ifdef __has_feature
#define PROBE_HAS(feature) __has_feature(feature)
#else
#define PROBE_HAS(feature) 0
#endif

/* The kernel is about to use, or has just used, this memory: it must be alive. */
#if defined(__SANITIZE_ADDRESS__) || PROBE_HAS(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define PROBE_ALIVE(base, len) CHECK(__asan_region_is_poisoned((base), (len)) == NULL)
#else
#define PROBE_ALIVE(base, len) ((void)(base), (void)(len))
#endif

/* What was written before the handing over is seen by whoever gets it back. */
#if defined(__SANITIZE_THREAD__) || PROBE_HAS(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#define PROBE_HAND_OVER(ptr) __tsan_release(ptr)
#define PROBE_TAKE_BACK(ptr) __tsan_acquire(ptr)
#else
#define PROBE_HAND_OVER(ptr) ((void)(ptr))
#define PROBE_TAKE_BACK(ptr) ((void)(ptr))
#endif

#endif
