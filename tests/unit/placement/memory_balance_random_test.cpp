// Random demands, measurements and budgets: whatever is decided fits.
#include "tests/unit/placement/balance_fixture.hpp"

#include "tropilla/error.hpp"

#include <catch2/catch.hpp>
#include <random>

using namespace tropilla;
using fixture = testing::balance_fixture;

namespace {

/// One life of a balance, with the decisions checked.
class random_life {
public:
  random_life(const fixture& f, unsigned seed) : fixture_(f), random_(seed), balance_(f.balance_with(below(30) + 4)) {}

  void run() {
    for (int i = 0; i < 120; ++i) {
      now_ += std::chrono::milliseconds(below(3000));
      measure();
      const auto demand = some_demand();
      const std::size_t held = demand.empty() ? 0 : below(demand.back() + 1);
      if (below(12) == 0)
        change_budget(demand, held);
      else if (const auto move = balance_.decide(demand, held, now_))
        follow(*move, demand, held);
    }
  }

  std::size_t moves = 0, refusals = 0;

private:
  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_); }

  void measure() {
    if (below(2) == 0)
      balance_.step_computed(1 + below(8), {1e-4 * static_cast<double>(1 + below(1000))});
    if (below(3) == 0)
      balance_.weights_read(1 + below(std::size_t{1} << 24), 1e-4 * static_cast<double>(1 + below(1000)));
  }

  std::vector<std::size_t> some_demand() {
    std::vector<std::size_t> out(below(9));
    std::size_t pages = 0;
    for (auto& d : out)
      d = pages += 1 + below(fixture::context_pages);
    return out;
  }

  void change_budget(const std::vector<std::size_t>& demand, std::size_t held) {
    const std::size_t device = below(fixture_.inputs.size());
    const std::size_t bytes = fixture_.whole(1, device) * (40 + below(160)) / 100;
    const auto before = balance_.current();
    try {
      const auto move = balance_.for_budget(device, bytes, demand, held);
      CHECK(testing::is_within_budgets(move.to));
      CHECK(move.to.placements[device]->budget == bytes);
      CHECK(balance_.current().placements == before.placements);
      ++moves;
      balance_.moved(move.to, now_);
    } catch (const error& e) {
      CHECK(e.code() == errc::over_budget);
      ++refusals;
    }
    CHECK(testing::is_within_budgets(balance_.current()));
  }

  void follow(const memory_move& move, const std::vector<std::size_t>& demand, std::size_t held) {
    const auto& before = balance_.current();
    CHECK(testing::is_within_budgets(move.to));
    CHECK(move.to.kv_pages != before.kv_pages);
    CHECK(!move.reason.empty());
    if (move.to.kv_pages < before.kv_pages)
      CHECK(move.to.kv_pages >= held);
    if (!demand.empty())
      CHECK(move.to.kv_pages >= std::min(demand.front(), fixture::max_pages));
    for (std::size_t i = 0; i < before.placements.size(); ++i)
      CHECK(move.to.placements[i]->budget == before.placements[i]->budget);
    ++moves;
    balance_.moved(move.to, now_);
  }

  const fixture& fixture_;
  std::mt19937 random_;
  memory_balance balance_;
  memory_balance::clock::time_point now_{};
};

} // namespace

TEST_CASE("whatever is wanted and measured, divisions fit the budgets and have the pages that they claim") {
  const fixture one, two({{0, 9}, {9, fixture::layers}});
  std::size_t moves = 0, refusals = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    random_life life(seed % 2 ? one : two, seed);
    life.run();
    moves += life.moves;
    refusals += life.refusals;
  }
  CHECK(moves > 100);
  CHECK(refusals > 10);
}

TEST_CASE("the same measurements lead to the same moves") {
  const fixture f;
  std::vector<std::string> reasons[2];
  for (auto& told : reasons) {
    std::mt19937 random(5);
    auto b = f.balance_with(18);
    for (int i = 0; i < 600; ++i) {
      b.step_computed(1 + random() % 4, {0.001 * static_cast<double>(1 + random() % 50)});
      b.weights_read(1 + random() % 10000000, 0.001 * static_cast<double>(1 + random() % 300));
      const std::size_t first = 1 + random() % 24;
      const std::vector<std::size_t> demand{first, first + random() % 16, first + 16 + random() % 16};
      const auto now = memory_balance::clock::time_point(std::chrono::seconds(2 * i));
      if (const auto move = b.decide(demand, 0, now)) {
        told.push_back(move->reason);
        b.moved(move->to, now);
      }
    }
  }
  CHECK(reasons[0].size() > 5);
  CHECK(reasons[0] == reasons[1]);
}
