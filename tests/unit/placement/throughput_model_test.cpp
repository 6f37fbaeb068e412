// Tokens per second from earlier steps: means, lines between them, and what is unknown.
#include "src/placement/throughput_model.hpp"

#include <catch2/catch.hpp>
#include <limits>

using namespace tropilla;

TEST_CASE("nothing is predicted before it was measured") {
  throughput_model m;
  CHECK(!m.compute_seconds(1));
  CHECK(!m.read_seconds(1));
  CHECK(m.read_seconds(0) == 0.0);
  CHECK(!m.tokens_per_second(1, 0));
  m.step_computed(1, 0, {0.1});
  CHECK(m.tokens_per_second(1, 0) == 10.0);
  CHECK(!m.tokens_per_second(1, 1));
  m.weights_read(1000, 1);
  CHECK(*m.tokens_per_second(1, 500) == Approx(2 / 1.4)); // as long as the factor is not measured
  CHECK(*m.tokens_per_second(1, 50) == Approx(10 / 1.4)); // reading hides behind computing
}

TEST_CASE("the newest measurement counts an eighth") {
  throughput_model m;
  m.step_computed(2, 0, {1});
  m.step_computed(2, 0, {9});
  CHECK(*m.compute_seconds(2) == Approx(2));
  m.weights_read(800, 1);
  m.weights_read(1, 1); // a small read takes as long as it takes, and says little
  CHECK(*m.read_seconds(800) == Approx(800 * (1 + 7.0 / 8) / (1 + 700)));
}

TEST_CASE("times lie on a line between what was measured, and grow with the sequences beyond it") {
  throughput_model m;
  m.step_computed(2, 0, {2});
  m.step_computed(6, 0, {4});
  CHECK(*m.compute_seconds(2) == Approx(2));
  CHECK(*m.compute_seconds(3) == Approx(2.5));
  CHECK(*m.compute_seconds(5) == Approx(3.5));
  CHECK(*m.compute_seconds(6) == Approx(4));
  CHECK(*m.compute_seconds(1) == Approx(2 / 1.3));
  CHECK(*m.compute_seconds(11) == Approx(4 * 4.0 / 2.5));
}

TEST_CASE("what is no measurement changes nothing") {
  throughput_model m;
  m.step_computed(0, 0, {1});
  for (const double seconds :
       {0.0, -1.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    m.step_computed(1, 0, {seconds});
    m.weights_read(1000, seconds);
  }
  m.weights_read(0, 1);
  CHECK(!m.compute_seconds(1));
  CHECK(!m.read_seconds(1));
}

TEST_CASE("steps that stream take longer than their longer part by a factor that is measured") {
  throughput_model m;
  m.weights_read(1000, 1);
  m.step_computed(4, 0, {0.5, 0.5});
  for (int i = 0; i < 200; ++i)
    m.step_computed(4, 1000, {0.5, 1});
  CHECK(m.tokens_per_second(4, 1000) == Approx(4));
  for (int i = 0; i < 200; ++i)
    m.step_computed(4, 1000, {0.5, 1.5});
  CHECK(m.tokens_per_second(4, 1000) == Approx(4 / 1.5));
  CHECK(m.tokens_per_second(4, 0) == Approx(8)); // nothing is streamed
  m.step_computed(4, 1000, {0.5, 0});            // it is not known how long it took
  CHECK(m.tokens_per_second(4, 1000) == Approx(4 / 1.5));
  for (int i = 0; i < 200; ++i)
    m.step_computed(4, 1000, {0.5, 1e9});
  CHECK(*m.tokens_per_second(4, 1000) > 0.5);
}
