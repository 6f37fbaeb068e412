/// A store of pages made of a map, and a mover that carries out moves when a test says so.
#pragma once

#include "tests/unit/schedule/table_top.hpp"

#include <map>

namespace tropilla::testing {

struct table_store final : page_index {
  using page = std::array<token_id, kv_page_tokens>;

  [[nodiscard]] page_key root() const noexcept override { return {1, 2}; }
  [[nodiscard]] std::size_t stored(std::span<const page_key> keys) const override {
    return static_cast<std::size_t>(
        std::ranges::find_if(keys, [this](const page_key& k) { return !pages.contains(k); }) - keys.begin());
  }

  std::map<page_key, page> pages;
};

/// Takes the moves that a batcher wants, and carries them out on the pages of a table top.
struct table_mover {
  explicit table_mover(table_top& of, std::shared_ptr<table_store> to) : table(of), store(std::move(to)) {}

  /// Takes all wanted moves. How many are started and not over.
  std::size_t take() {
    while (const auto next = table.batching.wanted_move()) {
      started.push_back(next);
      table.batching.move_started();
    }
    return started.size();
  }
  /// Carries out the first `pages` pages of a started move, and ends it.
  void end(std::size_t which = 0, std::size_t pages = ~std::size_t{0}) {
    auto& m = *started.at(which);
    CHECK(m.pages.size() == (m.way == page_move::direction::prefetch ? 0 : m.keys.size()));
    CHECK(m.tokens.size() == m.keys.size() * kv_page_tokens);
    for (std::size_t i = m.first; i < m.pages.size() && m.moved < pages; ++i, ++m.moved) {
      REQUIRE(m.table->starts.front().at(m.pages[i]) != nullptr);
      auto& on_device = table.pages.at(m.pages[i]);
      if (m.way == page_move::direction::save) {
        const std::span all(m.tokens);
        CHECK(std::ranges::equal(on_device, all.subspan(i * kv_page_tokens, kv_page_tokens)));
        store->pages[m.keys[i]] = on_device;
        ++saved;
      } else {
        const auto found = store->pages.find(m.keys[i]);
        if (found == store->pages.end()) // it left meanwhile
          break;
        on_device = found->second;
        ++restored;
      }
    }
    prefetched += m.way == page_move::direction::prefetch;
    m.seconds = 0.001;
    m.over = true;
    started.erase(started.begin() + static_cast<std::ptrdiff_t>(which));
  }
  void end_all() {
    while (take() > 0)
      end();
  }

  table_top& table;
  std::shared_ptr<table_store> store;
  std::vector<std::shared_ptr<page_move>> started;
  std::size_t saved = 0, restored = 0; ///< pages
  std::size_t prefetched = 0;          ///< sequences
};

} // namespace tropilla::testing
