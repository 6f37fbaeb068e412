// Errors across CAF, and the system of a runtime.
#include "actors/caf_seam.hpp"

#include "actors/messages.hpp"
#include "tropilla/actors.hpp"

namespace tropilla::cast {
namespace {

#if CAF_MAJOR_VERSION < 1
constexpr auto category = caf::atom("tropilla");
#endif

} // namespace

caf::error to_caf(const error& e) {
#if CAF_MAJOR_VERSION < 1
  return {static_cast<std::uint8_t>(e.code()), category, caf::make_message(std::string(e.what()))};
#else
  return caf::error{static_cast<caf_code>(e.code()), std::string(e.what())};
#endif
}

error from_caf(const caf::error& e) {
#if CAF_MAJOR_VERSION < 1
  if (e.category() == category && e.context().match_elements<std::string>())
    return {static_cast<errc>(e.code()), e.context().get_as<std::string>(0)};
#else
  if (e.category() == caf::type_id_v<caf_code> && e.context().match_elements<std::string>())
    return {static_cast<errc>(e.code()), e.context().get_as<std::string>(0)};
#endif
  return {errc::device_failed, "an actor of the runtime ended while it was asked; open the runtime again"};
}

std::string render(const caf::error& reason) {
  const auto mine = from_caf(reason);
#if CAF_MAJOR_VERSION < 1
  return reason.category() == category ? std::string(mine.what()) : caf::to_string(reason);
#else
  return reason.category() == caf::type_id_v<caf_code> ? std::string(mine.what()) : caf::to_string(reason);
#endif
}

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
  caf::core::init_global_meta_objects();
  caf::init_global_meta_objects<caf::id_block::tropilla_engine>();
  caf::init_global_meta_objects<caf::id_block::tropilla>();
#endif
}

} // namespace tropilla
