#include "cooperative.h"

#include <algorithm>

#include "launch.h"
#include "scheduler.h"

namespace cpu_driver {

namespace {

std::string describe_block(const Launch& launch, unsigned block) {
    const Index grid = launch.grid;
    return format("block (%u,%u,%u)", block % grid.x, block / grid.x % grid.y,
                  block / grid.x / grid.y);
}

}  // namespace

unsigned Team::count(State state) const {
    return static_cast<unsigned>(std::count(states_.begin(), states_.end(), state));
}

// To the next block that can run; who calls has just stopped to.
void Team::pass_turn() {
    for (turn_ = 0; turn_ < states_.size() && states_[turn_] != State::kRunning;) ++turn_;
}

// After a block has stopped to run: whether the barrier is complete, or never will be.
void Team::settle() {
    const unsigned waiting = count(State::kWaiting), left = count(State::kLeft);
    if (!failed_ && waiting && waiting + left == states_.size()) {
        if (left) {
            divergent_ = failed_ = true;
        } else {
            std::fill(states_.begin(), states_.end(), State::kRunning);
            ++generation_;
            if (check_hooks && check_hooks->grid_barrier_complete)
                check_hooks->grid_barrier_complete();
        }
    }
    pass_turn();
    changed_.notify_all();
}

bool Team::begin(unsigned block) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return failed_ || my_turn(block); });
    return !failed_;
}

void Team::end(unsigned block, bool good) {
    std::lock_guard<std::mutex> lock(mutex_);
    states_[block] = State::kLeft;
    failed_ |= !good;
    settle();
}

void Team::meet(Worker& worker, unsigned block, const void* caller) {
    {
        std::unique_lock<std::mutex> lock(mutex_);
        states_[block] = State::kWaiting;
        const unsigned mine = generation_;
        settle();
        changed_.wait(lock, [&] { return failed_ || (generation_ != mine && my_turn(block)); });
        if (!failed_) {
            if (check_hooks && check_hooks->block_resume) check_hooks->block_resume(worker);
            return;
        }
    }
    fail(worker, block, caller);
}

// The lock is not held: this leaves the kernel by a jump.
void Team::fail(Worker& worker, unsigned block, const void* caller) {
    bool tells = false;
    unsigned left = 0;
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (divergent_ && !told_) {
            told_ = tells = true;
            while (states_[left] != State::kLeft) ++left;
        }
    }
    if (!tells) leave_kernel(worker);
    const std::string text = "divergent barrier: " + describe_block(*worker.launch, block) +
                             " waits at the grid-wide barrier, which " +
                             describe_block(*worker.launch, left) +
                             " will never reach (it has left the kernel)";
    if (check_hooks && check_hooks->block_resume) check_hooks->block_resume(worker);
    fail_waiting(worker, "divergent_barrier", worker.block.current, caller, text);
}

}  // namespace cpu_driver
