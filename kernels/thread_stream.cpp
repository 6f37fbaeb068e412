// Implements the queue and the thread of a stream.
#include "kernels/thread_stream.hpp"

#include "kernels/spin.hpp"
#include "kernels/threads.hpp"

#include <atomic>
#include <deque>
#include <mutex>
#include <pthread.h>
#include <thread>
#include <utility>

namespace tropilla {

struct thread_stream::impl {
  impl(std::string n, std::chrono::nanoseconds s) : name(std::move(n)), spin(s) {}

  std::string name;
  std::chrono::nanoseconds spin;
  std::mutex mutex; ///< guards `jobs` and `stopping`
  std::deque<std::function<void()>> jobs;
  bool stopping = false;
  std::atomic<std::uint32_t> changes = 0; ///< counts what was enqueued, and stopping: what the thread waits on
  std::jthread thread;                    ///< last: it uses the others

  void changed() {
    changes.fetch_add(1, std::memory_order_release);
    changes.notify_one();
  }

  void work() {
    std::deque<std::function<void()>> taken;
    for (;;) {
      const auto seen = changes.load(std::memory_order_acquire);
      bool stop = false;
      {
        const std::lock_guard lock(mutex);
        taken.swap(jobs);
        stop = stopping;
      }
      for (; !taken.empty(); taken.pop_front())
        try {
          taken.front()();
        } catch (...) { // the job is over where it threw: see the header
        }
      const auto news = [&] { return changes.load(std::memory_order_acquire) != seen; };
      if (news())
        continue;
      if (stop)
        return;
      if (spin.count() == 0 || !spin_for(spin, news))
        changes.wait(seen, std::memory_order_acquire);
    }
  }
};

thread_stream::thread_stream(std::string name, std::chrono::nanoseconds spin)
    : impl_(std::make_unique<impl>(std::move(name), spin)) {
  impl_->thread = start_thread(impl_->name, [i = impl_.get()] { i->work(); });
  pthread_setname_np(impl_->thread.native_handle(), impl_->name.substr(0, 15).c_str());
}

thread_stream::~thread_stream() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->changed();
  impl_->thread.join();
}

void thread_stream::enqueue(std::function<void()> job) {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->jobs.push_back(std::move(job));
  }
  impl_->changed();
}

event thread_stream::record() {
  auto e = event::make();
  enqueue([e] { e.complete(); });
  return e;
}

void thread_stream::wait(event e) {
  if (!e.done())
    enqueue([e = std::move(e)] { e.wait(); });
}

void thread_stream::synchronize() {
  record().wait();
}

std::string_view thread_stream::name() const noexcept {
  return impl_->name;
}

} // namespace tropilla
