/* scratch.h - files and folders of a test's own, below TMPDIR. scripts/run-tests gives each program one and removes it, however the program
 * ends; a test that ends well has removed its own.
 */
#ifndef KVD_TEST_SCRATCH_H
#define KVD_TEST_SCRATCH_H

#include <stddef.h>

/* A fresh folder. */
void scratch_folder(char *path, size_t len);
/* With all that is in it. */
void scratch_remove(const char *path);
/* A fresh file, empty. Returns it open for reading and writing. */
int scratch_file(char *path, size_t len);

#endif
