// Errors across CAF, and the system of a runtime.
#include "actors/caf_seam.hpp"

#include "actors/messages.hpp"
#include "kernels/threads.hpp"
#include "tropilla/actors.hpp"

#include <vector>

namespace tropilla::cast {
namespace {

#if CAF_MAJOR_VERSION < 1
constexpr auto category = caf::atom("tropilla");
#endif

} // namespace

caf::error to_caf(const error& e) {
#if CAF_MAJOR_VERSION < 1
  return {static_cast<std::uint8_t>(e.code()), category,
          caf::make_message(std::string(e.what()), static_cast<std::uint8_t>(e.change()))};
#else
  return {static_cast<caf_code>(e.code()),
          caf::make_message(std::string(e.what()), static_cast<std::uint8_t>(e.change()))};
#endif
}

bool is_gone(const caf::error& e) {
#if CAF_MAJOR_VERSION < 1
  return e.category() != category || !e.context().match_elements<std::string, std::uint8_t>();
#else
  return !e || e.category() != caf::type_id_v<caf_code> || !e.context().match_elements<std::string, std::uint8_t>();
#endif
}

error from_caf(const caf::error& e) {
  if (is_gone(e))
    return {errc::device_failed, "an actor of the runtime ended while it was asked; open the runtime again"};
  return {static_cast<errc>(e.code()), e.context().get_as<std::string>(0),
          static_cast<remedy>(e.context().get_as<std::uint8_t>(1))};
}

std::string render(const caf::error& reason) {
  return is_gone(reason) ? caf::to_string(reason) : std::string(from_caf(reason).what());
}

#if CAF_MAJOR_VERSION < 1

struct inline_executor::impl final : caf::execution_unit {
  // Actors that go on and on (others flood them) are the scheduler's, so that the thread gets back to its own work.
  static constexpr std::size_t max_turns = 64;
  static constexpr std::size_t messages_per_turn = 16;

  explicit impl(caf::actor_system& system) : caf::execution_unit(&system) {
    ready.reserve(2 * max_turns); // an actor in the middle of a message can't be told that there is no memory
  }

  void exec_later(caf::resumable* r) override {
    if (ready.size() < ready.capacity())
      ready.push_back(r);
    else
      system().scheduler().enqueue(r);
  }

  void run() {
    for (std::size_t turn = 0; turn < ready.size(); ++turn) {
      caf::resumable* const r = ready[turn];
      if (turn >= max_turns)
        system().scheduler().enqueue(r);
      else if (r->resume(this, messages_per_turn) == caf::resumable::resume_later)
        exec_later(r);
      else
        caf::intrusive_ptr_release(r);
    }
    ready.clear();
  }

  std::vector<caf::resumable*> ready; ///< each holds a reference; those before the turn's have had it
};

inline_executor::inline_executor(caf::actor_system& system) : impl_(std::make_unique<impl>(system)) {}

void inline_executor::send(const caf::strong_actor_ptr& to, const caf::message& m) {
  if (!to)
    return;
  retry_on_bad_alloc([&] { to->enqueue(nullptr, caf::make_message_id(), m, impl_.get()); });
  impl_->run();
}

#else

struct inline_executor::impl {};
inline_executor::inline_executor(caf::actor_system&) {}
void inline_executor::send(const caf::strong_actor_ptr&, const caf::message&) {}

#endif

inline_executor::~inline_executor() = default;

struct system::impl {
  struct config : caf::actor_system_config {
    config() {
#if CAF_MAJOR_VERSION < 1
      set("scheduler.policy", caf::atom("sharing"));
      set("scheduler.max-threads", std::size_t{2});
      set("middleman.enable-automatic-connections", false);
#else
      set("caf.scheduler.policy", "sharing");
      set("caf.scheduler.max-threads", std::size_t{2});
#endif
    }
  };
  config settings;
  caf::actor_system actors{settings};
};

system::system() {
  // CAF 0.17 starts two workers, a clock and a printer, and does not survive the refusal of one.
  require_threads(4, "actors");
  [[maybe_unused]] const visit visiting;
  register_messages();
  impl_ = std::make_unique<impl>();
}

system::~system() = default;

caf::actor_system& system::get() noexcept {
  return impl_->actors;
}

} // namespace tropilla::cast

namespace tropilla {

void register_messages() {
#if CAF_MAJOR_VERSION >= 1
  [[maybe_unused]] static const bool once = [] { // CAF's table is not guarded, and threads may open runtimes
    caf::core::init_global_meta_objects();
    caf::init_global_meta_objects<caf::id_block::tropilla_engine>();
    caf::init_global_meta_objects<caf::id_block::tropilla>();
    return true;
  }();
#endif
}

} // namespace tropilla
