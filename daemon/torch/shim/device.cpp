// How this process uses a device's stream and memory. Without a GPU there is neither.

#include "guarded.h"

#include <ATen/core/Tensor.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>
#include <memory>

using tensor = at::Tensor *;

extern "C" {

// Copies on the device's stream. From and to pinned memory the call does not wait for it.
char *r1d_copy_ahead(tensor destination, tensor source) {
    return guarded([&] {
        c10::NoGradGuard no_grad;
        destination->copy_(*source, /*non_blocking=*/true);
    });
}

// A mark behind what is queued on the stream of `on`'s device; null on the CPU.
char *r1d_event_record(tensor on, void **event) {
    return guarded([&] {
        *event = nullptr;
        if (!on->is_cuda())
            return;
        c10::impl::VirtualGuardImpl device(on->device().type());
        auto mark = std::make_unique<c10::Event>(on->device().type());
        mark->record(device.getStream(on->device()));
        *event = mark.release();
    });
}

char *r1d_event_wait(void *event) {
    return guarded([&] {
        if (event)
            static_cast<c10::Event *>(event)->synchronize();
    });
}

// Whether the device has come to the mark.
char *r1d_event_query(void *event, bool *passed) {
    return guarded([&] { *passed = !event || static_cast<c10::Event *>(event)->query(); });
}

void r1d_event_drop(void *event) { delete static_cast<c10::Event *>(event); }

// The stream on which this thread's work of `on`'s device is queued, as CUDA's own calls take it;
// null on the CPU.
char *r1d_stream_of(tensor on, void **stream) {
    return guarded([&] {
        *stream = nullptr;
        if (!on->is_cuda())
            return;
        c10::impl::VirtualGuardImpl device(on->device().type());
        *stream = device.getStream(on->device()).native_handle();
    });
}

// Makes `on`'s device the one that CUDA's own calls of this thread are for.
char *r1d_use_device_of(tensor on) {
    return guarded([&] {
        if (on->is_cuda())
            c10::impl::VirtualGuardImpl(on->device().type()).setDevice(on->device());
    });
}

// Returns what libtorch keeps of a GPU's memory to the driver.
char *r1d_release_device_memory() {
    return guarded([&] { at::getDeviceAllocator(c10::DeviceType::CUDA)->emptyCache(); });
}

// A GPU's whole memory.
char *r1d_device_memory(int index, uint64_t *bytes) {
    return guarded([&] {
        auto memory = at::getDeviceAllocator(c10::DeviceType::CUDA)->getMemoryInfo(index);
        *bytes = memory.second;
    });
}

} // extern "C"
