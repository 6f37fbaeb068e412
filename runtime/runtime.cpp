// The public interface over the cast.
#include "tropilla/runtime.hpp"

#include "runtime/callback_sink.hpp"
#include "runtime/runtime_impl.hpp"

#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <unistd.h>

namespace tropilla {

struct TROPILLA_HIDDEN generation::impl {
  std::shared_ptr<runtime_impl> owner;
  std::shared_ptr<reply_channel> channel;
  std::shared_ptr<std::atomic<bool>> abandoned;
  request_id id = 0;

  impl(std::shared_ptr<runtime_impl> of, std::vector<token_id> prompt, const generation_options& options, bool score)
      : owner(std::move(of)), channel(std::make_shared<reply_channel>(owner->config.unread_pieces)) {
    auto request = owner->make_request(std::move(prompt), options, score, channel);
    abandoned = request.abandoned;
    id = owner->submit(std::move(request));
  }
  ~impl() {
    if (!channel->ended())
      cancel();
  }
  void cancel() noexcept {
    *abandoned = true;
    owner->cancel(id);
  }
};

generation::generation(std::shared_ptr<impl> i) : impl_(std::move(i)) {}
generation::generation(generation&&) noexcept = default;
generation& generation::operator=(generation&&) noexcept = default;
generation::~generation() = default;

generation::iterator generation::begin() {
  return iterator(this);
}
std::optional<piece> generation::next() {
  return impl_->channel->next_piece();
}
void generation::cancel() noexcept {
  impl_->cancel();
}
const generation_statistics& generation::statistics() const noexcept {
  return impl_->channel->statistics();
}

runtime::runtime(runtime_config config) : impl_(std::make_shared<runtime_impl>(std::move(config), nullptr)) {}

runtime::~runtime() {
  if (impl_)
    impl_->shut_down(); // generations may still hold what is left
}

runtime::runtime(runtime&&) noexcept = default;
runtime& runtime::operator=(runtime&&) noexcept = default;

namespace {

/// Throws as a trace that is written there, and writes nothing: there may be an earlier one.
void require_writable(const std::filesystem::path& trace) {
  std::error_code unknown;
  const bool there = std::filesystem::exists(trace, unknown);
  const auto folder = trace.has_parent_path() ? trace.parent_path() : std::filesystem::path(".");
  const bool is_folder = std::filesystem::is_directory(trace, unknown);
  if (is_folder || ::access((there ? trace : folder).c_str(), W_OK) != 0)
    throw error(errc::io_error, fmt::format("can't write the trace to {}: {}", trace.string(),
                                            std::strerror(is_folder ? EISDIR : errno)));
}

} // namespace

plan_report runtime::plan(const runtime_config& config) {
  auto prepared = prepared_model::open(config);
  if (config.on_notice)
    for (const auto& sentence : prepared.notices)
      config.on_notice(sentence);
  // What the constructor does besides, up to what a device has to hold.
  if (!config.trace.empty())
    require_writable(config.trace);
  static_cast<void>(model_texts::read(prepared.file, config.chat_template));
  for (const auto& shard : prepared.shards)
    if (shard.dev->host_memory() && shard.fits())
      static_cast<void>(shard.dev->reserve(device_shard::reservation(shard.input, *shard.placement)));
  return std::move(prepared.report);
}

generation runtime::generate(std::vector<token_id> prompt, const generation_options& options) {
  return generation(std::make_shared<generation::impl>(impl_, std::move(prompt), options, false));
}

generation runtime::generate(std::string_view prompt, const generation_options& options, bool special) {
  return generate(impl_->encode(prompt, special), options);
}

generation runtime::chat(std::span<const chat_message> messages, const generation_options& options) {
  return generate(impl_->encode(messages), options);
}

generation runtime::chat(std::initializer_list<chat_message> messages, const generation_options& options) {
  return chat(std::span(messages.begin(), messages.size()), options);
}

struct TROPILLA_HIDDEN reply_ticket::impl {
  std::weak_ptr<runtime_impl> owner;
  std::shared_ptr<std::atomic<bool>> abandoned;
  request_id id = 0;
};

void reply_ticket::cancel() const noexcept {
  *impl_->abandoned = true;
  if (const auto owner = impl_->owner.lock())
    owner->cancel(impl_->id);
}

reply_ticket runtime::submit(std::vector<token_id> prompt, const generation_options& options,
                             reply_callbacks callbacks) {
  auto ticket = std::make_shared<reply_ticket::impl>();
  ticket->owner = impl_;
  auto* const threads = callbacks.quick ? nullptr : &impl_->client_threads;
  auto request =
      impl_->make_request(std::move(prompt), options, false,
                          std::make_shared<callback_sink>(std::move(callbacks), threads, impl_->config.unread_pieces));
  ticket->abandoned = request.abandoned;
  ticket->id = impl_->submit(std::move(request));
  return reply_ticket(std::move(ticket));
}

std::vector<token_id> runtime::encode(std::span<const chat_message> messages) const {
  return impl_->encode(messages);
}

std::vector<token_id> runtime::encode(std::string_view text, bool special) const {
  return impl_->encode(text, special);
}

void runtime::score(std::span<const token_id> ids,
                    const std::function<void(std::size_t, std::span<const float>)>& row) {
  const generation::impl g(impl_, {ids.begin(), ids.end()}, {}, true);
  while (const auto step = g.channel->next_logits()) {
    const std::size_t width = step->values.size() / step->rows;
    for (std::size_t r = 0; r < step->rows; ++r)
      row(step->first + r, step->values.subspan(r * width, width));
    (void)cast::ask_role<cast::request_accepted>(*impl_->system, *impl_->scheduler, cast::logits_read{g.id});
  }
}

std::vector<token_id> runtime::tokenize(std::string_view text, bool bos, bool special) const {
  return impl_->tok->encode(text, {bos, special});
}

std::string runtime::detokenize(std::span<const token_id> ids, bool special) const {
  return impl_->tok->decode(ids, special);
}

void runtime::wait_until_loaded() {
  for (const auto& shard : impl_->shards)
    (void)cast::ask_role<cast::weights_resident>(*impl_->system, *shard->compute, cast::await_weights{});
}

const model_facts& runtime::model() const noexcept {
  return impl_->facts;
}
const plan_report& runtime::plan() const noexcept {
  return impl_->report;
}

std::vector<memory_report> runtime::memory() const {
  return impl_->memory();
}

load_report runtime::load() const {
  return impl_->load();
}

void runtime::set_budget(std::size_t bytes, std::string_view device) {
  impl_->set_budget(bytes, device);
}

runtime runtime::replicate(std::size_t context) const {
  return runtime(std::make_shared<runtime_impl>(impl_, context));
}

std::size_t runtime::save_session(const std::filesystem::path& path, std::span<const token_id> ids,
                                  std::string_view note) {
  return impl_->save_session(path, ids, note);
}

std::vector<token_id> runtime::load_session(const std::filesystem::path& path, std::string* note) {
  return impl_->load_session(path, note);
}

std::size_t runtime::threads() const noexcept {
  std::size_t threads = 0;
  for (const auto& shard : impl_->shards)
    threads += shard->dev->workers();
  return threads;
}
std::string_view runtime::isa() const noexcept {
  return impl_->shards.front()->dev->isa();
}

} // namespace tropilla
