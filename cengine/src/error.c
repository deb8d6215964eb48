#include "error.h"

#include <stdarg.h>
#include <stdio.h>

ce_status ce_fail(ce_error *err, ce_status code, const char *fmt, ...) {
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

ce_status ce_ok(ce_error *err) {
    if (err != NULL) {
        err->code = CE_OK;
        err->message[0] = '\0';
    }
    return CE_OK;
}
