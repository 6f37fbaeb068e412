// Who has which page, and what is found again.
#include "src/schedule/kv_pages.hpp"

#include "tests/unit/schedule/computed_path.hpp"

#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>

using namespace tropilla;
using testing::computed;

namespace {

std::vector<token_id> numbers(std::size_t n, token_id first = 0) {
  std::vector<token_id> out(n);
  std::iota(out.begin(), out.end(), first);
  return out;
}

/// Pages whose extents are all held.
kv_pages all_held(std::size_t pages, std::size_t extent_pages = 1) {
  kv_pages out(pages, extent_pages);
  for (const auto e : out.choose_extents(pages))
    out.extent_granted(e);
  return out;
}

} // namespace

TEST_CASE("sequences that begin alike share their full pages, and a copy of the partial one") {
  auto pages = all_held(8);
  auto a = computed(pages, numbers(80)); // 32 + 32 + 16
  CHECK(pages.in_use() == 3);
  auto longer = numbers(76);
  longer.push_back(999);
  std::optional<page_copy> copy;
  auto b = pages.find(longer, copy);
  CHECK(b.tokens == 76);
  REQUIRE(copy);
  CHECK(copy->from == a.pages[2]);
  CHECK(copy->to == b.pages[2]);
  CHECK(b.pages[0] == a.pages[0]);
  CHECK(b.pages[1] == a.pages[1]);
  CHECK(pages.in_use() == 4);
  pages.copied(*copy);
  pages.release(a);
  pages.release(b);
  CHECK(pages.in_use() == 0);
  CHECK(pages.cached() == 4);
}

TEST_CASE("a partial page that nobody uses is taken over and goes on") {
  auto pages = all_held(4);
  auto a = computed(pages, numbers(40));
  const auto last = a.pages[1];
  pages.release(a);
  std::optional<page_copy> copy;
  auto b = pages.find(numbers(50), copy);
  CHECK_FALSE(copy);
  CHECK(b.tokens == 40);
  CHECK(b.pages[1] == last);
  const auto more = numbers(10, 40);
  pages.append(b, more);
  pages.release(b);
  CHECK(pages.matching(numbers(60)).tokens == 50);
}

TEST_CASE("pages that are computed twice at the same time become one") {
  auto pages = all_held(8);
  std::optional<page_copy> none;
  auto a = pages.find(numbers(100), none), b = pages.find(numbers(100), none);
  for (int i = 0; i < 4; ++i) {
    REQUIRE(pages.extend(a));
    REQUIRE(pages.extend(b));
  }
  CHECK(pages.available() == 0);
  const auto tokens = numbers(100);
  pages.append(a, tokens);
  pages.append(b, tokens);
  for (int i = 0; i < 3; ++i)
    CHECK(a.pages[i] == b.pages[i]);
  CHECK(a.pages[3] != b.pages[3]);
  CHECK(pages.in_use() == 5);
  pages.release(b);
  pages.release(a);
  CHECK(pages.available() == 8);
}

TEST_CASE("the longest unused page goes first, and never one in use or one with children") {
  auto pages = all_held(4);
  auto a = computed(pages, numbers(64));
  pages.release(a);
  auto b = computed(pages, numbers(64, 1000));
  pages.release(b);
  auto c = computed(pages, numbers(96)); // uses a's two again, and takes one of b's: the deeper
  CHECK(pages.matching(numbers(64, 1000)).tokens == 32);
  CHECK(c.tokens == 96);
  CHECK(pages.available() == 1);
  auto d = computed(pages, numbers(20, 5000));
  CHECK(pages.matching(numbers(64, 1000)).tokens == 0);
  kv_pages::path none;
  CHECK_FALSE(pages.extend(none));
  CHECK(none.pages.empty());
  pages.release(d);
  CHECK(pages.extend(none));
}

TEST_CASE("whatever sequences do, what is found is what was appended, and every use comes back") {
  // The model: what each page would hold, written as a device would write it.
  std::mt19937 random(11);
  auto pages = all_held(24);
  std::vector<std::vector<token_id>> contents(24);
  struct user {
    std::vector<token_id> tokens;
    kv_pages::path path;
  };
  std::vector<user> users;
  for (int round = 0; round < 20000; ++round) {
    if (users.size() < 6 && random() % 2 == 0) {
      user u;
      for (std::size_t n = 1 + random() % 150; u.tokens.size() < n;)
        u.tokens.push_back(static_cast<token_id>(u.tokens.size() / 16 % 2 ? random() % 2 : 0));
      std::optional<page_copy> copy;
      const auto expected = pages.matching(u.tokens);
      u.path = pages.find(u.tokens, copy);
      CHECK((u.path.tokens == expected.tokens || pages.available() == 0));
      if (copy) {
        contents[copy->to] = contents[copy->from];
        contents[copy->to].resize(u.path.tokens % kv_page_tokens ? u.path.tokens % kv_page_tokens : kv_page_tokens);
        pages.copied(*copy);
      }
      for (std::size_t i = 0; i < u.path.tokens; ++i)
        REQUIRE(contents[u.path.pages[i / kv_page_tokens]].at(i % kv_page_tokens) == u.tokens[i]);
      users.push_back(std::move(u));
    } else if (!users.empty()) {
      const std::size_t i = random() % users.size();
      auto& u = users[i];
      if (random() % 4 == 0 || u.path.tokens == u.tokens.size()) {
        pages.release(u.path);
        users.erase(users.begin() + static_cast<std::ptrdiff_t>(i));
        continue;
      }
      std::size_t count = std::min<std::size_t>(1 + random() % 70, u.tokens.size() - u.path.tokens);
      while (u.path.pages.size() * kv_page_tokens < u.path.tokens + count)
        if (!pages.extend(u.path)) {
          count = u.path.pages.size() * kv_page_tokens - u.path.tokens;
          break;
        }
      for (std::size_t t = u.path.tokens; t < u.path.tokens + count; ++t) {
        auto& page = contents[u.path.pages[t / kv_page_tokens]];
        page.resize(t % kv_page_tokens);
        page.push_back(u.tokens[t]);
      }
      pages.append(u.path, {u.tokens.data() + u.path.tokens, count});
      for (std::size_t t = 0; t < u.path.tokens; ++t)
        REQUIRE(contents[u.path.pages[t / kv_page_tokens]].at(t % kv_page_tokens) == u.tokens[t]);
    }
  }
  for (auto& u : users)
    pages.release(u.path);
  CHECK(pages.available() == pages.size());
}
