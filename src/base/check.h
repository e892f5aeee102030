/* check.h - assertions that stay on in release builds.
 *
 * CHECK guards what a bug alone could break. Nothing that a peer or a disk can send may reach one:
 * bad input is an error value, never an abort.
 */
#ifndef KVD_BASE_CHECK_H
#define KVD_BASE_CHECK_H

/* Say where and what, then abort. Async-signal unsafe; any thread. */
_Noreturn void check_failed(const char *file, int line, const char *what);

#define CHECK(cond) ((cond) ? (void)0 : check_failed(__FILE__, __LINE__, #cond))

#endif
