// Extents of KV pages against a simple model, in random orders.
#include "src/schedule/kv_pages.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <random>
#include <set>

using namespace tropilla;

namespace {

enum class state : std::uint8_t { absent, asked, held };

struct user {
  std::vector<token_id> tokens;
  kv_pages::path path;
};

/// What the pages should be: which extents have memory, who uses which page, and what would be written there.
struct model {
  explicit model(unsigned seed)
      : random(seed), extent_pages(1 + random() % 4), pages(1 + random() % 24, extent_pages),
        extents(pages.extents(), state::absent), contents(pages.size()), limit(extents.size()) {}

  [[nodiscard]] std::size_t count(state s) const { return static_cast<std::size_t>(std::ranges::count(extents, s)); }
  [[nodiscard]] std::size_t held_pages() const {
    std::size_t n = 0;
    for (page_number p = 0; p < pages.size(); ++p)
      n += extents[p / extent_pages] == state::held;
    return n;
  }
  [[nodiscard]] std::set<page_number> used() const {
    std::set<page_number> out;
    for (const auto& u : users)
      out.insert(u.path.pages.begin(), u.path.pages.end());
    return out;
  }
  [[nodiscard]] bool is_used(extent_number e) const {
    return std::ranges::any_of(used(), [&](page_number p) { return p / extent_pages == e; });
  }

  void check() const {
    REQUIRE(pages.held() == count(state::held));
    REQUIRE(pages.asked() == count(state::asked));
    REQUIRE(pages.in_use() == used().size());
    REQUIRE(pages.free_held() + pages.in_use() + pages.cached() == held_pages());
    for (const auto p : used())
      REQUIRE(extents[p / extent_pages] == state::held);
    std::size_t in_use = 0;
    for (extent_number e = 0; e < extents.size(); ++e)
      in_use += is_used(e);
    REQUIRE(pages.extents_in_use() == in_use);
    REQUIRE(pages.available() <= pages.size());
    REQUIRE(pages.available() >= pages.free_held() + pages.cached());
  }

  void choose() {
    const std::size_t wanted = random() % (pages.size() + 2);
    for (const auto e : pages.choose_extents(wanted)) {
      REQUIRE_FALSE(pages.refusal());
      REQUIRE(e == std::ranges::find(extents, state::absent) - extents.begin());
      extents[e] = state::asked;
      REQUIRE(count(state::held) + count(state::asked) <= limit);
    }
    std::size_t free = pages.free_held();
    for (page_number p = 0; p < pages.size(); ++p)
      free += extents[p / extent_pages] == state::asked;
    const bool limited = count(state::held) + count(state::asked) >= limit;
    REQUIRE((free >= wanted || limited || pages.refusal()));
  }

  void answer() {
    std::vector<extent_number> asked;
    for (extent_number e = 0; e < extents.size(); ++e)
      if (extents[e] == state::asked)
        asked.push_back(e);
    if (asked.empty())
      return;
    const auto e = asked[random() % asked.size()];
    if (random() % 4 == 0) {
      extents[e] = state::absent;
      pages.extent_refused(e, "no");
      REQUIRE(pages.available() == pages.free_held() + pages.cached());
    } else {
      extents[e] = state::held;
      pages.extent_granted(e);
    }
  }

  void gone(const std::vector<extent_number>& which) {
    for (const auto e : which) {
      REQUIRE(extents[e] == state::held);
      REQUIRE_FALSE(is_used(e));
      extents[e] = state::absent;
      for (page_number p = 0; p < pages.size(); ++p)
        if (p / extent_pages == e)
          contents[p].clear(); // its memory is gone
    }
  }

  void give_up() {
    if (random() % 2 == 0) {
      const std::size_t keep = random() % 3, cached = pages.cached();
      gone(pages.give_up_empty(keep));
      REQUIRE(pages.cached() == cached);
      REQUIRE(pages.give_up_empty(keep).empty());
      return;
    }
    const std::size_t most = random() % 4;
    const auto which = pages.give_up_cached(most);
    gone(which);
    REQUIRE(which.size() <= most);
    if (which.size() < most)
      for (extent_number e = 0; e < extents.size(); ++e)
        REQUIRE((extents[e] != state::held || is_used(e)));
  }

  void begin_user() {
    user u;
    for (std::size_t n = 1 + random() % 150; u.tokens.size() < n;)
      u.tokens.push_back(static_cast<token_id>(u.tokens.size() / 16 % 2 ? random() % 2 : 0));
    const auto before = used();
    std::optional<page_copy> copy;
    u.path = pages.find(u.tokens, copy);
    if (copy) {
      REQUIRE_FALSE(before.contains(copy->to));
      contents[copy->to] = contents[copy->from];
      contents[copy->to].resize((u.path.tokens - 1) % kv_page_tokens + 1);
      pages.copied(*copy);
    }
    for (std::size_t i = 0; i < u.path.tokens; ++i)
      REQUIRE(contents[u.path.pages[i / kv_page_tokens]].at(i % kv_page_tokens) == u.tokens[i]);
    users.push_back(std::move(u));
  }

  void end_user(std::size_t i) {
    pages.release(users[i].path);
    users.erase(users.begin() + static_cast<std::ptrdiff_t>(i));
  }

  void go_on(user& u) {
    std::size_t tokens = std::min<std::size_t>(1 + random() % 70, u.tokens.size() - u.path.tokens);
    while (u.path.pages.size() * kv_page_tokens < u.path.tokens + tokens) {
      const auto before = used();
      if (!pages.extend(u.path)) {
        REQUIRE(pages.free_held() + pages.cached() == 0);
        tokens = u.path.pages.size() * kv_page_tokens - u.path.tokens;
        break;
      }
      REQUIRE_FALSE(before.contains(u.path.pages.back()));
      REQUIRE(extents[u.path.pages.back() / extent_pages] == state::held);
    }
    for (std::size_t t = u.path.tokens; t < u.path.tokens + tokens; ++t) {
      auto& page = contents[u.path.pages[t / kv_page_tokens]];
      page.resize(t % kv_page_tokens);
      page.push_back(u.tokens[t]);
    }
    pages.append(u.path, {u.tokens.data() + u.path.tokens, tokens});
    for (std::size_t t = 0; t < u.path.tokens; ++t)
      REQUIRE(contents[u.path.pages[t / kv_page_tokens]].at(t % kv_page_tokens) == u.tokens[t]);
  }

  void act() {
    switch (random() % 16) {
    case 0:
      limit = random() % (extents.size() + 1);
      return pages.set_limit(limit);
    case 1:
      return pages.try_again();
    case 2:
      return give_up();
    case 3:
    case 4:
      return choose();
    case 5:
    case 6:
    case 7:
      return answer();
    default:
      break;
    }
    if (users.size() < 6 && random() % 2 == 0)
      return begin_user();
    if (users.empty())
      return;
    const std::size_t i = random() % users.size();
    if (random() % 4 == 0 || users[i].path.tokens == users[i].tokens.size())
      end_user(i);
    else
      go_on(users[i]);
  }

  std::mt19937 random;
  std::size_t extent_pages;
  kv_pages pages;
  std::vector<state> extents;
  std::vector<std::vector<token_id>> contents; ///< by page, what would be written there
  std::size_t limit;
  std::vector<user> users;
};

} // namespace

TEST_CASE("whatever happens to extents, no page is handed out twice or without memory, and all goes back") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    model m(seed);
    for (int i = 0; i < 400; ++i) {
      m.act();
      m.check();
    }
    while (!m.users.empty())
      m.end_user(0);
    while (m.count(state::asked) > 0)
      m.answer();
    m.check();
    m.gone(m.pages.give_up_cached(m.pages.extents()));
    m.check();
    CHECK(m.pages.held() == 0);
    CHECK(m.pages.cached() == 0);
  }
}
