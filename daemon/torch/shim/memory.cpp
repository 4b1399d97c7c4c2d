// A CPU allocator that keeps the large blocks it is given back.
//
// libtorch's own returns them to glibc, which hands blocks above 32 MiB (and, on threads other than
// the first, above 64 MiB of heap) back to the system; the next operation then faults the same
// memory in again, page by page. A training step does that hundreds of times.
//
//   base                base + 64
//   | header | unused   | tensor ...                          |
//     bytes of the block, 0 for small ones, which glibc serves

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace {

constexpr size_t kHeaderBytes = 64;
constexpr size_t kSmallBytesMax = size_t{1} << 18;
constexpr size_t kHugePageBytes = size_t{1} << 21;

// Rounded up to an eighth of its power of two, so that blocks of like size serve each other and at
// most an eighth is wasted.
size_t block_bytes(size_t bytes) {
    size_t step = size_t{1} << (63 - __builtin_clzll(bytes) - 3);
    return (bytes + step - 1) & ~(step - 1);
}

class KeepingAllocator final : public c10::Allocator {
  public:
    c10::DataPtr allocate(size_t bytes) override {
        void *data = bytes == 0 ? nullptr : take(bytes + kHeaderBytes);
        return {data, data, &give_back, c10::Device(c10::DeviceType::CPU)};
    }

    c10::DeleterFnPtr raw_deleter() const override { return &give_back; }

    void copy_data(void *destination, const void *source, size_t bytes) const override {
        default_copy_data(destination, source, bytes);
    }

    void set_limit(size_t bytes) {
        std::lock_guard<std::mutex> lock(mutex_);
        limit_ = bytes;
        if (kept_ > limit_)
            release();
    }

    void refuse_above(size_t bytes) { most_ = bytes; }

    size_t kept() {
        std::lock_guard<std::mutex> lock(mutex_);
        return kept_;
    }

  private:
    void *take(size_t bytes) {
        TORCH_CHECK(bytes <= most_, "not enough memory: ", bytes, " bytes are refused");
        if (bytes <= kSmallBytesMax)
            return with_header(fresh(bytes, kHeaderBytes), 0);
        size_t size = block_bytes(bytes);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            // A block half as large again serves too: from one step to the next the sizes differ a
            // little, and fresh memory costs more.
            auto found = free_.lower_bound(size);
            if (found != free_.end() && found->first <= size + size / 2) {
                const size_t held = found->first;
                void *base = found->second.back();
                found->second.pop_back();
                if (found->second.empty())
                    free_.erase(found);
                kept_ -= held;
                return with_header(base, held);
            }
        }
        void *base = fresh(size, size >= kHugePageBytes ? kHugePageBytes : kHeaderBytes);
        if (size >= kHugePageBytes)
            madvise(base, size, MADV_HUGEPAGE);
        return with_header(base, size);
    }

    // From the system; what is kept is let go of before giving up.
    void *fresh(size_t bytes, size_t alignment) {
        void *base = nullptr;
        if (posix_memalign(&base, alignment, bytes) == 0)
            return base;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            release();
        }
        TORCH_CHECK(posix_memalign(&base, alignment, bytes) == 0, "not enough memory: ", bytes,
                    " bytes cannot be had");
        return base;
    }

    static void *with_header(void *base, size_t size) {
        *static_cast<size_t *>(base) = size;
        return static_cast<char *>(base) + kHeaderBytes;
    }

    static void give_back(void *data);

    void keep(void *base, size_t size) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (kept_ + size <= limit_) {
                free_[size].push_back(base);
                kept_ += size;
                return;
            }
        }
        free(base);
    }

    void release() {
        for (auto &[size, blocks] : free_)
            for (void *base : blocks)
                free(base);
        free_.clear();
        kept_ = 0;
    }

    std::mutex mutex_;
    // By size; no list is empty.
    std::map<size_t, std::vector<void *>> free_;
    size_t kept_ = 0;
    size_t limit_ = 0;
    // Larger blocks are refused; for tests.
    std::atomic<size_t> most_{SIZE_MAX};
};

// Never destroyed: tensors may outlive every static.
KeepingAllocator &allocator() {
    static auto *instance = new KeepingAllocator();
    return *instance;
}

void KeepingAllocator::give_back(void *data) {
    if (!data)
        return;
    void *base = static_cast<char *>(data) - kHeaderBytes;
    size_t size = *static_cast<size_t *>(base);
    if (size == 0) {
        free(base);
    } else {
        allocator().keep(base, size);
    }
}

} // namespace

extern "C" {

void r1d_keep_freed_memory(size_t bytes_max) {
    allocator().set_limit(bytes_max);
    c10::SetCPUAllocator(&allocator());
}

void r1d_release_kept_memory(size_t bytes_max) {
    allocator().set_limit(0);
    allocator().set_limit(bytes_max);
}

void r1d_refuse_memory_above(size_t bytes) { allocator().refuse_above(bytes); }

size_t r1d_kept_memory() { return allocator().kept(); }

} // extern "C"
