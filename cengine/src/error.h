/* One line of error, in a buffer that the caller owns. */
#ifndef CE_ERROR_H
#define CE_ERROR_H

#include "cengine.h"

#if defined(__GNUC__)
#define CE_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define CE_PRINTF(fmt, args)
#endif

/* Writes code and message to err (which may be NULL) and returns code. */
ce_status ce_fail(ce_error *err, ce_status code, const char *fmt, ...) CE_PRINTF(3, 4);

/* CE_OK, with an empty message. */
ce_status ce_ok(ce_error *err);

#endif
