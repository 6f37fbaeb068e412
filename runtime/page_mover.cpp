// Copies pages part by part, and lets the store do the rest.
#include "runtime/page_mover.hpp"

#include <chrono>
#include <utility>

namespace tropilla {
namespace {

std::span<const token_id> tokens_of(const page_move& m, std::size_t page) {
  return std::span(m.tokens).subspan(page * kv_page_tokens, kv_page_tokens);
}

page_key key_before(const page_move& m, std::size_t page, const kv_store& store) {
  return page == 0 ? store.root() : m.keys[page - 1];
}

std::vector<kv_store::wanted> wanted_by(const page_move& m, const kv_store& store) {
  std::vector<kv_store::wanted> out;
  for (std::size_t i = m.first; i < m.keys.size(); ++i)
    out.push_back({key_before(m, i, store), m.keys[i], tokens_of(m, i)});
  return out;
}

} // namespace

page_mover::page_mover(std::shared_ptr<kv_store> store, std::vector<part> parts, std::function<void()> over,
                       tracer* trace)
    : store_(std::move(store)), parts_(std::move(parts)), over_(std::move(over)), trace_(trace), saving_("kv save"),
      restoring_("kv restore") {
  if (trace_) {
    saves_track_ = trace_->make_track("stream kv save");
    restores_track_ = trace_->make_track("stream kv restore");
  }
}

page_mover::~page_mover() = default;

void page_mover::start(std::shared_ptr<page_move> move) {
  const bool saves = move->way == page_move::direction::save;
  saves_ += saves;
  try {
    (saves ? saving_ : restoring_).enqueue([this, saves, m = std::move(move)]() mutable {
      run(*m);
      m.reset();
      saves_ -= saves;
      over_();
      const auto more = [this] { return saves_ > 0; }; // whose pages are in use until they are saved
      if (saves && !more())
        store_->flush(more);
    });
  } catch (...) {
    saves_ -= saves;
    throw;
  }
}

void page_mover::run(page_move& m) {
  const auto began = std::chrono::steady_clock::now();
  try {
    switch (m.way) {
    case page_move::direction::save:
      save(m);
      break;
    case page_move::direction::restore:
      restore(m);
      break;
    case page_move::direction::prefetch:
      prefetch(m);
      break;
    }
  } catch (const std::exception&) { // the device or the memory failed; what is not moved is computed
  }
  m.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  m.over = true;
}

void page_mover::save(page_move& m) {
  const auto pages = wanted_by(m, *store_);
  const trace_span span(trace_, saves_track_, "save pages", "pages", static_cast<std::int64_t>(pages.size()));
  m.moved = store_->save(pages, [&](std::size_t i, std::span<std::byte> into) { read_page(m, m.first + i, into); });
}

void page_mover::restore(page_move& m) {
  const auto pages = wanted_by(m, *store_);
  const trace_span span(trace_, restores_track_, "restore pages", "pages", static_cast<std::int64_t>(pages.size()));
  (void)store_->restore(pages, [&](std::size_t i, std::span<const std::byte> from) {
    write_page(m, m.first + i, from);
    ++m.moved;
  });
}

void page_mover::prefetch(const page_move& m) {
  const auto pages = wanted_by(m, *store_);
  const trace_span span(trace_, restores_track_, "prefetch pages", "pages", static_cast<std::int64_t>(pages.size()));
  store_->prefetch(pages);
}

void page_mover::read_page(const page_move& m, std::size_t page, std::span<std::byte> into) {
  for (std::size_t d = 0; d < parts_.size(); ++d) {
    parts_[d].dev->download(m.table->starts[d][m.pages[page]], into.data(), parts_[d].bytes);
    into = into.subspan(parts_[d].bytes);
  }
}

void page_mover::write_page(const page_move& m, std::size_t page, std::span<const std::byte> from) {
  for (std::size_t d = 0; d < parts_.size(); ++d) {
    parts_[d].dev->upload(from.data(), m.table->starts[d][m.pages[page]], parts_[d].bytes);
    from = from.subspan(parts_[d].bytes);
  }
}

} // namespace tropilla
