/* Any bytes as a trace: each is a request within the bounds, or an error with a reason. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "client/kvctl/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_request(const struct trace_request *request)
{
    CHECK(request->count <= TRACE_MAX_IDS);
    CHECK(request->timestamp_ms >= 0 && request->timestamp_ms <= 0x1p53);
    for (size_t i = 0; i < request->count; i++)
        CHECK(request->ids[i] <= (uint64_t)1 << 53);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace_request *request = malloc(sizeof *request);
    struct trace trace;
    int result = TRACE_REQUEST;

    CHECK(request);
    CHECK(trace_open_memory(&trace, data, size) == 0);
    while (result == TRACE_REQUEST || result == KVD_EPROTO) { /* on after a bad line too: each is on its own */
        trace.why[0] = '\0';
        result = trace_next(&trace, request);
        if (result == TRACE_REQUEST)
            check_request(request);
        CHECK((result == KVD_EPROTO) == (trace.why[0] != '\0'));
        CHECK(memchr(trace.why, '\0', sizeof trace.why));
    }
    CHECK(result == TRACE_END);
    trace_close(&trace);
    free(request);
    return 0;
}
