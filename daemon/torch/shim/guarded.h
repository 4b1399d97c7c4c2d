// No C++ exception leaves the shim: one that did would abort the process.

#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// nullptr, or the message of what `body` threw, from malloc; the caller frees it.
template <typename Body> char *guarded(Body body) {
    try {
        body();
        return nullptr;
    } catch (const c10::Error &error) {
        return strdup(error.what_without_backtrace());
    } catch (const std::exception &error) {
        return strdup(error.what());
    } catch (...) {
        return strdup("unknown C++ exception");
    }
}
