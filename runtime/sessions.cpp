// Saves sequences to a file, and restores them.
#include "src/io/session_file.hpp"

#include "kernels/kv_copy.hpp"
#include "runtime/runtime_impl.hpp"
#include "src/io/model_fingerprint.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace tropilla {
namespace {

/// Pages that the scheduler lent; given back at the end.
class borrowed_pages {
public:
  template <class Message>
  borrowed_pages(const runtime_impl& from, const Message& m)
      : from_(from), borrower_(m.borrower),
        loan_(cast::ask_role<cast::pages_lent>(*from.system, *from.scheduler, m).loan) {}
  ~borrowed_pages() {
    if (over_)
      return;
    try {
      (void)cast::ask_role<cast::pages_returned>(*from_.system, *from_.scheduler, cast::return_pages{borrower_});
    } catch (const error&) { // the runtime is closed: nobody waits for pages
    }
  }
  borrowed_pages(const borrowed_pages&) = delete;
  borrowed_pages& operator=(const borrowed_pages&) = delete;

  [[nodiscard]] const page_loan& loan() const noexcept { return loan_; }
  /// Throws `error` when the loan was void.
  template <class Message>
  void end(const Message& m) {
    over_ = true;
    if (!cast::ask_role<cast::pages_returned>(*from_.system, *from_.scheduler, m).valid)
      throw error(errc::device_failed, "replies failed meanwhile, and all keys and values were given up; try again");
  }

private:
  const runtime_impl& from_;
  request_id borrower_;
  page_loan loan_;
  bool over_ = false;
};

/// Keys or values of a layer that lie together both on a device and in the session's page: of so many KV heads.
struct page_piece {
  device& dev;
  std::byte* memory;                          ///< on the device
  std::size_t at;                             ///< in the session's page
  std::size_t kv_heads, key_size, value_size; ///< one size is 0
  std::size_t bytes;
};

/// Calls `f` with each piece of a loan's page, wherever it is.
template <class Function>
void for_each_piece(const runtime_impl& rt, const session_shape& shape, const page_loan& loan, std::size_t page,
                    const Function& f) {
  const std::size_t key = kv_head_bytes(shape.type, shape.key_size),
                    value = kv_head_bytes(shape.type, shape.value_size);
  for (std::size_t i = 0; i < rt.shards.size(); ++i) {
    const auto& layout = rt.shards[i]->placement->layout;
    const auto heads = layout.share.of(layout.share.kv_heads);
    device& dev = *rt.shards[i]->dev;
    std::byte* memory = loan.table->starts[i][loan.pages[page]];
    for (std::size_t l = layout.range.first; l < layout.range.last; ++l) {
      const std::size_t keys = l * shape.layer_bytes(), values = keys + shape.kv_heads * key;
      f(page_piece{dev, memory, keys + heads.first * key, heads.count, shape.key_size, 0, heads.count * key});
      memory += heads.count * key;
      f(page_piece{dev, memory, values + heads.first * value, heads.count, 0, shape.value_size, heads.count * value});
      memory += heads.count * value;
    }
  }
}

void require_path(const std::filesystem::path& path) {
  if (path.empty())
    throw error(errc::invalid_argument, "the session has no path; name a file for it");
}

void check_ids(std::span<const token_id> ids, std::size_t vocabulary, errc code, std::string_view where) {
  for (const token_id id : ids)
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary)
      throw error(code, fmt::format("{}: token id {} is not in the vocabulary of {} tokens", where, id, vocabulary));
}

} // namespace

session_shape runtime_impl::page_shape() const {
  const auto& input = shards.front()->input;
  const auto& attention = input.model.attention;
  const auto number = [](std::size_t n) { return static_cast<std::uint32_t>(n); };
  return {fingerprint_of(input.model, input.files),
          input.shape.kv,
          config.precise,
          number(input.model.layers),
          number(attention.kv_heads),
          number(attention.key_size),
          number(attention.value_size)};
}

std::size_t runtime_impl::save_session(const std::filesystem::path& path, std::span<const token_id> ids,
                                       std::string_view note) {
  if (closed)
    throw error(errc::cancelled, "the runtime is closed");
  require_path(path);
  check_ids(ids, vocabulary, errc::invalid_argument, "the tokens to save");
  const auto shape = page_shape();
  const auto borrower = next_request.fetch_add(1);
  borrowed_pages pages(*this, cast::borrow_pages{borrower, {ids.begin(), ids.end()}});
  const auto& loan = pages.loan();
  session_writer file(path, shape, ids.first(loan.tokens), facts.name, note);
  std::vector<std::byte> buffer(shape.page_bytes()), copy(shape.layer_bytes());
  for (std::size_t i = 0; i < loan.pages.size(); ++i) {
    const std::size_t tokens = std::min(loan.tokens - i * kv_page_tokens, kv_page_tokens);
    for_each_piece(*this, shape, loan, i, [&](const page_piece& p) {
      if (!p.dev.host_memory())
        p.dev.download(p.memory, copy.data(), p.bytes);
      const std::byte* const from = p.dev.host_memory() ? p.memory : copy.data();
      copy_kv_tokens(shape.type, p.kv_heads, p.key_size, p.value_size, from, buffer.data() + p.at, tokens);
    });
    file.add_page(buffer);
  }
  pages.end(cast::return_pages{borrower});
  file.commit();
  log->of(log_component::runtime).info("a session is saved to {}: {} tokens", path.string(), loan.tokens);
  return loan.tokens;
}

std::vector<token_id> runtime_impl::load_session(const std::filesystem::path& path, std::string* note) {
  require_path(path);
  const session_reader file(path);
  const auto shape = page_shape();
  file.require(shape, facts.name);
  const auto& tokens = file.tokens();
  check_ids(tokens, vocabulary, errc::malformed_file, file.name());
  std::vector<std::byte> buffer(shape.page_bytes());
  for (std::size_t i = 0; i < file.facts().pages(); ++i) // before anybody gives up pages for it
    file.read_page(i, buffer);
  if (!tokens.empty()) {
    const auto borrower = next_request.fetch_add(1);
    borrowed_pages pages(*this, cast::borrow_empty_pages{borrower, tokens.size()});
    for (std::size_t i = 0; i < file.facts().pages(); ++i) {
      file.read_page(i, buffer);
      for_each_piece(*this, shape, pages.loan(), i,
                     [&](const page_piece& p) { p.dev.upload(buffer.data() + p.at, p.memory, p.bytes); });
    }
    pages.end(cast::fill_pages{borrower, tokens});
  }
  log->of(log_component::runtime).info("a session is restored from {}: {} tokens", path.string(), tokens.size());
  if (note)
    *note = file.note();
  return tokens;
}

} // namespace tropilla
