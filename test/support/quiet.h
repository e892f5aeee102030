/* quiet.h - a log for tests that do not look at it. */
#ifndef KVD_TEST_QUIET_H
#define KVD_TEST_QUIET_H

#include "base/log.h"

extern const struct log quiet;

#endif
