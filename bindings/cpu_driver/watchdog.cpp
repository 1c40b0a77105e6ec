#include "watchdog.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "scheduler.h"

namespace cpu_driver {

RunningLaunch running_launch;

namespace {

// A launch that is younger than this needs nobody to watch it.
constexpr int64_t kPatience = 500'000'000;

std::atomic<uint64_t> stopped_sequence{0};
std::atomic<const char*> stop_reason{nullptr};
std::atomic<bool> interrupted{false};
struct sigaction previous_interrupt;

int64_t now() {
    return std::chrono::steady_clock::now().time_since_epoch().count();
}

// Remembers the interrupt and hands it on: Python's own handler only sets a flag, which nobody
// reads while a kernel runs.
void on_interrupt(int signal, siginfo_t* info, void* context) {
    interrupted = true;
    if (previous_interrupt.sa_flags & SA_SIGINFO)
        previous_interrupt.sa_sigaction(signal, info, context);
    else if (previous_interrupt.sa_handler != SIG_DFL && previous_interrupt.sa_handler != SIG_IGN)
        previous_interrupt.sa_handler(signal);
}

void guard_interrupts() {
    sigaction(SIGINT, nullptr, &previous_interrupt);
    // Without a handler the program ends anyway; where interrupts are ignored, so are they here.
    const bool plain =
        !(previous_interrupt.sa_flags & SA_SIGINFO) &&
        (previous_interrupt.sa_handler == SIG_DFL || previous_interrupt.sa_handler == SIG_IGN);
    if (plain) return;
    struct sigaction action{};
    action.sa_sigaction = on_interrupt;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | (previous_interrupt.sa_flags & SA_RESTART);
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, nullptr);
}

void release_interrupts() {
    struct sigaction current{};
    sigaction(SIGINT, nullptr, &current);
    if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == on_interrupt)
        sigaction(SIGINT, &previous_interrupt, nullptr);
}

[[noreturn]] void watch(Worker* const* workers, unsigned count) {
    const char* text = getenv("PYGAN_CPU_TIMEOUT");
    const double limit = text ? strtod(text, nullptr) : 0.0;
    bool guarding = false;
    uint64_t guarded = 0;
    for (;;) {
        const bool hurry = guarding && stopped_sequence == guarded;
        std::this_thread::sleep_for(std::chrono::milliseconds(hurry ? 2 : 100));
        const uint64_t sequence = running_launch.sequence;
        const int64_t started = running_launch.started;
        const bool old = started && now() - started > kPatience;
        if (guarding && (!old || sequence != guarded)) {
            release_interrupts();
            guarding = false;
        }
        if (!old) continue;
        if (!guarding) {
            interrupted = false;
            guarded = sequence;
            guard_interrupts();
            guarding = true;
        }
        if (interrupted)
            stop_reason = "interrupted";
        else if (limit > 0 && static_cast<double>(now() - started) > limit * 1e9)
            stop_reason = "took longer than PYGAN_CPU_TIMEOUT allows";
        else
            continue;
        stopped_sequence = sequence;
        for (unsigned i = 0; i < count; ++i)
            if (workers[i]->sequence.load() == sequence)
                pthread_kill(workers[i]->thread, stop_signal());
    }
}

}  // namespace

int stop_signal() {
    return SIGRTMAX - 5;
}

bool stop_requested(const Worker& worker, const char** reason) {
    const uint64_t sequence = worker.sequence.load();
    if (!sequence || stopped_sequence != sequence) return false;
    *reason = stop_reason;
    return true;
}

void start_watchdog(Worker* const* workers, unsigned count) {
    std::thread([workers, count] { watch(workers, count); }).detach();
}

}  // namespace cpu_driver
