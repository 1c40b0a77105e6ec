// The blocks of a cooperative launch, which all run at the same time and can wait for each other.
//
// Shared memory is thread-local, so each block has an OS thread of its own. In check mode, whose
// shadow memory knows one running block, they take turns: a block runs until it comes to the grid's
// barrier or ends, then the next one does.
#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

namespace cpu_driver {

struct Worker;

class Team {
  public:
    Team(unsigned blocks, bool in_turns) : in_turns_(in_turns), states_(blocks, State::kRunning) {}

    // On the thread of the block, before and after it runs. `begin` waits for the block's turn and
    // is false where the launch has failed already; `good` is whether the block came to its end.
    bool begin(unsigned block);
    void end(unsigned block, bool good);

    // All threads of the block have come to the grid's barrier: waits until those of all blocks
    // have. Does not return where that cannot be, or the launch has failed.
    void meet(Worker& worker, unsigned block, const void* caller);

  private:
    enum class State { kRunning, kWaiting, kLeft };

    bool my_turn(unsigned block) const { return !in_turns_ || turn_ == block; }
    unsigned count(State state) const;
    void pass_turn();
    void settle();
    [[noreturn]] void fail(Worker& worker, unsigned block, const void* caller);

    const bool in_turns_;
    std::vector<State> states_;
    std::mutex mutex_;
    std::condition_variable changed_;
    unsigned turn_ = 0;
    unsigned generation_ = 0;  // barriers completed
    bool divergent_ = false;   // blocks wait for one that has left
    bool told_ = false;        // one of them has said so
    bool failed_ = false;
};

}  // namespace cpu_driver
