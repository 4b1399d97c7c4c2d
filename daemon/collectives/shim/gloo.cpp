// c10d's Gloo backend, and a c10d::Store whose calls are the caller's functions. C ABI; every
// function that can fail returns nullptr, or a malloc'ed message that the caller frees.

#define USE_C10D_GLOO

#include "guarded.h"

#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

using std::chrono::milliseconds;

namespace {

using tensor = at::Tensor *;

// Where the ranks find each other: the caller's functions, and the state that they get. They are
// called from threads of libtorch too.
struct Rendezvous {
    void *state;
    char *(*set)(void *state, const char *key, const uint8_t *value, size_t bytes);
    // Waits for the key; leaves a value from malloc.
    char *(*get)(void *state, const char *key, int64_t limit_ms, uint8_t **value, size_t *bytes);
    char *(*add)(void *state, const char *key, int64_t amount, int64_t *sum);
    char *(*has)(void *state, const char *key, bool *there);
    void (*drop)(void *state);
};

// Throws a message of the caller's. Only c10::Error may pass through libtorch's threads.
void checked(char *message) {
    if (!message)
        return;
    std::string text = message;
    std::free(message);
    C10_THROW_ERROR(DistStoreError, text);
}

struct RendezvousStore final : c10d::Store {
    // Dropped with the last store: libtorch may use it as long as it has a group.
    std::shared_ptr<Rendezvous> at;

    RendezvousStore(std::shared_ptr<Rendezvous> at, milliseconds limit)
        : c10d::Store(limit), at(std::move(at)) {}

    c10::intrusive_ptr<c10d::Store> clone() override {
        return c10::make_intrusive<RendezvousStore>(at, timeout_);
    }

    void set(const std::string &key, const std::vector<uint8_t> &value) override {
        checked(at->set(at->state, key.c_str(), value.data(), value.size()));
    }

    std::vector<uint8_t> take(const std::string &key, milliseconds limit) {
        uint8_t *value = nullptr;
        size_t bytes = 0;
        checked(at->get(at->state, key.c_str(), limit.count(), &value, &bytes));
        std::vector<uint8_t> out(value, value + bytes);
        std::free(value);
        return out;
    }

    std::vector<uint8_t> get(const std::string &key) override { return take(key, timeout_); }

    int64_t add(const std::string &key, int64_t amount) override {
        int64_t sum = 0;
        checked(at->add(at->state, key.c_str(), amount, &sum));
        return sum;
    }

    bool check(const std::vector<std::string> &keys) override {
        for (auto &key : keys) {
            bool there = false;
            checked(at->has(at->state, key.c_str(), &there));
            if (!there)
                return false;
        }
        return true;
    }

    void wait(const std::vector<std::string> &keys) override { wait(keys, timeout_); }

    // c10d's own default would be longer than any limit of ours.
    void wait(const std::vector<std::string> &keys, const milliseconds &limit) override {
        for (auto &key : keys)
            take(key, std::min(limit, timeout_));
    }

    bool deleteKey(const std::string &) override { unused("deleteKey"); }

    int64_t getNumKeys() override { unused("getNumKeys"); }

    [[noreturn]] static void unused(const char *call) {
        C10_THROW_ERROR(NotImplementedError, std::string(call) + " is no call of a rendezvous");
    }
};

// A call's own deadline ends it with Gloo's message; this one is behind it, for what trickles.
constexpr milliseconds GRACE{500};

// libtorch's flight recorder notes a group's first call without a lock, so threads that call groups
// of their own would break its map.
std::mutex launching;

// Launches a call, which blocks nobody, and waits for its end.
template <typename Launch> void run(milliseconds limit, Launch launch) {
    c10::intrusive_ptr<c10d::Work> work;
    {
        std::lock_guard<std::mutex> alone(launching);
        work = launch();
    }
    work->wait(limit + GRACE);
}

using group = c10d::ProcessGroupGloo;

} // namespace

extern "C" {

// Opens a group whose sockets are bound to `host`. The rendezvous' state is dropped once, when
// neither group nor store is left, also where this fails.
char *r1d_gloo_open(const Rendezvous *rendezvous, int rank, int size, const char *host,
                    int64_t limit_ms, void **out) {
    std::shared_ptr<Rendezvous> at(new Rendezvous(*rendezvous), [](Rendezvous *held) {
        held->drop(held->state);
        delete held;
    });
    return guarded([&] {
        milliseconds limit(limit_ms);
        auto options = group::Options::create(limit);
        options->devices.push_back(group::createDeviceForHostname(host));
        // Calls come one after the other.
        options->threads = 1;
        auto store = c10::make_intrusive<RendezvousStore>(std::move(at), limit);
        auto made = c10::make_intrusive<group>(std::move(store), rank, size, options);
        *out = made.release();
    });
}

void r1d_gloo_close(void *held) { c10::intrusive_ptr<group>::reclaim(static_cast<group *>(held)); }

// Sends consecutive parts of `input`, of `sent` bytes each, to the ranks in order, and fills
// `output` with `received` bytes of each.
char *r1d_gloo_all_to_all(void *held, tensor input, tensor output, const int64_t *sent,
                          const int64_t *received, size_t ranks, int64_t limit_ms) {
    return guarded([&] {
        c10d::AllToAllOptions options;
        options.timeout = milliseconds(limit_ms);
        // Gloo moves out of them.
        std::vector<int64_t> from(received, received + ranks), to(sent, sent + ranks);
        run(options.timeout, [&] {
            return static_cast<group *>(held)->alltoall_base(*output, *input, from, to, options);
        });
    });
}

// Fills `output` with the `input` of all ranks, which have the same size.
char *r1d_gloo_all_gather(void *held, tensor input, tensor output, int64_t limit_ms) {
    return guarded([&] {
        c10d::AllgatherOptions options;
        options.timeout = milliseconds(limit_ms);
        run(options.timeout, [&] {
            return static_cast<group *>(held)->_allgather_base(*output, *input, options);
        });
    });
}

char *r1d_gloo_broadcast(void *held, tensor bytes, int root, int64_t limit_ms) {
    return guarded([&] {
        c10d::BroadcastOptions options;
        options.timeout = milliseconds(limit_ms);
        options.rootRank = root;
        std::vector<at::Tensor> tensors{*bytes};
        run(options.timeout,
            [&] { return static_cast<group *>(held)->broadcast(tensors, options); });
    });
}

} // extern "C"
