// Extents of KV pages: which are asked for, which give their pages first, and which are given up.
#include "src/schedule/kv_pages.hpp"

#include "tests/unit/schedule/computed_path.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>

using namespace tropilla;
using testing::computed;

namespace {

using numbers_of_extents = std::vector<extent_number>;

std::vector<token_id> numbers(std::size_t n, token_id first = 0) {
  std::vector<token_id> out(n);
  std::iota(out.begin(), out.end(), first);
  return out;
}

void hold(kv_pages& pages, std::size_t count) {
  for (const auto e : pages.choose_extents(count))
    pages.extent_granted(e);
}

} // namespace

TEST_CASE(
    "the lowest absent extents are chosen until enough pages are free, asked ones count, and the last is smaller") {
  kv_pages pages(10, 4);
  CHECK(pages.extents() == 3);
  CHECK(pages.available() == 10);
  CHECK(pages.free_held() == 0);
  CHECK(pages.choose_extents(0).empty());
  CHECK(pages.choose_extents(5) == numbers_of_extents{0, 1});
  CHECK(pages.choose_extents(8).empty()); // they are asked for
  CHECK(pages.asked() == 2);
  CHECK(pages.available() == 10);
  pages.extent_granted(1);
  CHECK(pages.free_held() == 4);
  CHECK(pages.choose_extents(100) == numbers_of_extents{2});
  pages.extent_granted(0);
  pages.extent_granted(2);
  CHECK(pages.held() == 3);
  CHECK(pages.free_held() == 10);
}

TEST_CASE("after a refusal no extent is obtainable until it is tried again") {
  kv_pages pages(8, 2);
  CHECK(pages.choose_extents(4) == numbers_of_extents{0, 1});
  pages.extent_refused(0, "the test has none");
  CHECK(pages.refusal() == "the test has none");
  CHECK(pages.available() == 0);
  pages.extent_granted(1);
  CHECK(pages.available() == 2);
  CHECK(pages.choose_extents(8).empty());
  pages.try_again();
  CHECK(pages.available() == 8);
  CHECK(pages.choose_extents(4) == numbers_of_extents{0});
}

TEST_CASE("a limit holds for what is held and asked for, and what exceeds it stays until it is given up") {
  kv_pages pages(10, 4);
  pages.set_limit(2);
  CHECK(pages.available() == 8);
  CHECK(pages.choose_extents(10) == numbers_of_extents{0, 1});
  CHECK(pages.choose_extents(10).empty());
  pages.extent_granted(0);
  CHECK(pages.available() == 8);
  pages.set_limit(1);
  CHECK(pages.available() == 4); // the one that is asked for is not obtainable under the limit
  pages.extent_granted(1);
  CHECK(pages.held() == 2);
  CHECK(pages.choose_extents(10).empty());
  CHECK(pages.give_up_empty(1) == numbers_of_extents{1});
  CHECK(pages.available() == 4);
  pages.set_limit(100);
  CHECK(pages.limit() == 3);
  CHECK(pages.available() == 10);
}

TEST_CASE("the fullest extent gives its pages first, so that the others empty and go") {
  kv_pages pages(12, 4);
  hold(pages, 12);
  auto a = computed(pages, numbers(6 * kv_page_tokens)); // extent 0, and half of extent 1
  auto b = computed(pages, numbers(2 * kv_page_tokens, 1000));
  CHECK(b.pages == std::vector<page_number>{6, 7}); // not of extent 2
  CHECK(pages.extents_in_use() == 2);
  kv_pages::path c;
  REQUIRE(pages.extend(c));
  CHECK(c.pages.front() / 4 == 2);
  CHECK(pages.give_up_empty(0).empty());
  pages.release(c); // nothing is on its page
  CHECK(pages.extents_in_use() == 2);
  CHECK(pages.give_up_empty(1).empty());
  CHECK(pages.give_up_empty(0) == numbers_of_extents{2});
  CHECK(pages.available() == 4);
  CHECK(pages.free_held() == 0);
  pages.release(a);
  pages.release(b);
  CHECK(pages.give_up_empty(0).empty()); // they are cached
  CHECK(pages.cached() == 8);
}

TEST_CASE("a cached extent that goes takes with it the pages behind its own, and nothing of them is found") {
  kv_pages pages(6, 2);
  hold(pages, 6);
  auto a = computed(pages, numbers(6 * kv_page_tokens));
  REQUIRE(a.pages == std::vector<page_number>{0, 1, 2, 3, 4, 5});
  CHECK(pages.give_up_cached(1).empty()); // it is used
  while (a.pages.size() > 2)              // the first extent stays in use
    pages.shorten(a);
  CHECK(pages.give_up_cached(1) == numbers_of_extents{2}); // two pages are forgotten; with extent 1 it were four
  CHECK(pages.matching(numbers(6 * kv_page_tokens)).pages == 4);
  CHECK(pages.cached() == 2);
  auto b = computed(pages, numbers(2 * kv_page_tokens));
  CHECK(b.pages == a.pages);
  CHECK(pages.give_up_cached(5) == numbers_of_extents{1});
  CHECK(pages.matching(numbers(6 * kv_page_tokens)).pages == 2);
  pages.release(a);
  pages.release(b);
  CHECK(pages.give_up_cached(5) == numbers_of_extents{0});
  CHECK(pages.matching(numbers(6 * kv_page_tokens)).tokens == 0);
  CHECK(pages.held() == 0);
  hold(pages, 6);
  auto c = computed(pages, numbers(6 * kv_page_tokens)); // all of it is computed anew
  CHECK(pages.in_use() == 6);
  pages.release(c);
}

TEST_CASE("the root of a tree empties the extents behind it, and they go next") {
  kv_pages pages(8, 2);
  hold(pages, 8);
  auto root = computed(pages, numbers(kv_page_tokens));
  auto other = computed(pages, numbers(kv_page_tokens, 1000)); // extent 0 has both
  auto a = computed(pages, numbers(3 * kv_page_tokens));       // extent 1 is behind `root`
  REQUIRE(a.pages == std::vector<page_number>{0, 2, 3});
  auto b = computed(pages, numbers(2 * kv_page_tokens, 2000)); // extent 2
  for (auto* p : {&root, &a, &other, &b})
    pages.release(*p);
  // Extent 3 is empty; 1 and 2 lose two pages each, and 1 is unused for longer; then 2 again before 0 with two.
  CHECK(pages.give_up_cached(2) == numbers_of_extents{3, 1});
  CHECK(pages.matching(numbers(3 * kv_page_tokens)).pages == 1);
  CHECK(pages.matching(numbers(2 * kv_page_tokens, 2000)).pages == 2);
  CHECK(pages.give_up_cached(8).size() == 2);
  CHECK(pages.held() == 0);
  CHECK(pages.cached() == 0);
}

TEST_CASE("the extent that loses less goes before one that is unused for longer") {
  kv_pages pages(4, 2);
  hold(pages, 4);
  auto a = computed(pages, numbers(2 * kv_page_tokens));
  auto b = computed(pages, numbers(kv_page_tokens, 1000));
  pages.release(a);
  pages.release(b);
  CHECK(pages.give_up_cached(1) == numbers_of_extents{1});
  CHECK(pages.matching(numbers(2 * kv_page_tokens)).pages == 2);
}

TEST_CASE("of extents that lose as much, the longest unused goes first") {
  kv_pages pages(4, 2);
  hold(pages, 4);
  auto a = computed(pages, numbers(2 * kv_page_tokens));
  auto b = computed(pages, numbers(2 * kv_page_tokens, 1000));
  pages.release(a);
  pages.release(b);
  const bool again = GENERATE(false, true);
  if (again) {
    auto used = computed(pages, numbers(2 * kv_page_tokens));
    pages.release(used);
  }
  CHECK(pages.give_up_cached(1) == numbers_of_extents{again ? 1u : 0u});
}

TEST_CASE("the pages before the source of a copy stay until it is made") {
  kv_pages pages(4, 1);
  hold(pages, 4);
  auto a = computed(pages, numbers(kv_page_tokens + 8)); // pages 0 and 1
  auto like = numbers(kv_page_tokens + 4);
  like.push_back(999);
  std::optional<page_copy> copy;
  auto b = pages.find(like, copy);
  REQUIRE(copy);
  CHECK(copy->from == a.pages[1]);
  pages.release(a);
  pages.release(b); // its reader is gone, the copy is not made yet
  CHECK(pages.in_use() == 2);
  kv_pages::path all;
  while (pages.extend(all))
    CHECK(std::ranges::find(a.pages, all.pages.back()) == a.pages.end());
  CHECK(all.pages.size() == 2);
  CHECK(pages.give_up_cached(4).empty());
  CHECK(pages.matching(numbers(kv_page_tokens + 8)).tokens == kv_page_tokens + 8);
  pages.copied(*copy);
  CHECK(pages.in_use() == 2);
  CHECK(pages.cached() == 2);
}

TEST_CASE("everything is forgotten, and extents stay as they are") {
  kv_pages pages(8, 2);
  hold(pages, 4);
  (void)computed(pages, numbers(70));
  CHECK(pages.choose_extents(3) == numbers_of_extents{2});
  pages.set_limit(3);
  pages.clear();
  CHECK(pages.held() == 2);
  CHECK(pages.asked() == 1);
  CHECK(pages.limit() == 3);
  CHECK(pages.free_held() == 4);
  CHECK(pages.in_use() + pages.cached() == 0);
  CHECK(pages.matching(numbers(70)).tokens == 0);
}
