// The names of Gloo that libtorch's ProcessGroupGloo.hpp mentions. libtorch has Gloo inside but
// ships no headers of it. The shim holds none of these objects itself, it only hands pointers from
// libtorch to libtorch, so declarations without a layout are enough.

#pragma once

#include <chrono>
#include <memory>

namespace gloo {

class Context {
  public:
    void setTimeout(std::chrono::milliseconds timeout);
};

namespace transport {
class UnboundBuffer;
} // namespace transport

} // namespace gloo
