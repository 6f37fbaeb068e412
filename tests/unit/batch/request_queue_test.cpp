// Reading lines and requests ahead.
#include "src/batch/request_queue.hpp"

#include "tests/unit/batch/files.hpp"
#include "tropilla/error.hpp"

#include <array>

using namespace tropilla;
using testing::scratch_file;

namespace {

std::vector<input_line> lines_of(std::string_view text, std::size_t longest = 100) {
  scratch_file file(text);
  line_reader reader(file.descriptor(), file.name(), longest);
  std::vector<input_line> lines;
  while (auto line = reader.wait())
    lines.push_back(std::move(*line));
  CHECK(reader.ended());
  return lines;
}

request_queue_setup setup(scratch_file& file) {
  request_queue_setup s;
  s.input = file.descriptor();
  s.name = file.name();
  s.encode = [](const batch_prompt& p, std::optional<bool>) {
    const auto& text = std::get<std::string>(p);
    if (text == "bad")
      throw error(errc::invalid_argument, "can't encode");
    return std::vector<token_id>(text.begin(), text.end());
  };
  return s;
}

std::vector<batch_request> drain(request_queue& queue) {
  std::vector<batch_request> out;
  for (;;) {
    while (auto r = queue.take())
      out.push_back(std::move(*r));
    if (queue.input_ended())
      return out;
    CHECK(queue.read_on(1000));
  }
}

} // namespace

TEST_CASE("lines with and without ends, empty ones, long ones") {
  CHECK(lines_of("").empty());
  auto lines = lines_of("a\n\nb");
  REQUIRE(lines.size() == 3);
  CHECK((lines[0].text == "a" && lines[0].ended && lines[0].bytes == 2));
  CHECK((lines[1].blank() && lines[1].number == 2));
  CHECK((lines[2].text == "b" && !lines[2].ended && lines[2].bytes == 1));
  const std::string long_one(1'000'000, 'x');
  lines = lines_of(std::string(100, 'y') + "\n" + long_one + "\nz\n");
  REQUIRE(lines.size() == 3);
  CHECK_FALSE(lines[0].too_long);
  CHECK(lines[1].too_long);
  CHECK(lines[1].text.size() == 100);
  CHECK(lines[1].bytes == 1'000'001);
  CHECK(lines[2].text == "z");
}

TEST_CASE("a fingerprint tells lines apart, by place and content") {
  const auto a = lines_of("a\na\nb\na\r\n");
  CHECK(a[0].fingerprint() != a[1].fingerprint());
  CHECK(a[1].fingerprint() != lines_of("a\nb\n")[1].fingerprint());
  CHECK(a[3].fingerprint() == lines_of("\n\n\na")[3].fingerprint());
}

TEST_CASE("requests come in order with their ids, without what is done and blank") {
  scratch_file file(
      "{\"prompt\": \"a\"}\n  \nnonsense\n{\"prompt\": \"b\"}\n{\"prompt\": \"bad\"}\n{\"prompt\": \"c\"}");
  auto queue_setup = setup(file);
  queue_setup.done.insert(4);
  request_queue queue(queue_setup);
  const auto all = drain(queue);
  REQUIRE(all.size() == 4);
  CHECK(all[0].ids == std::vector<std::vector<token_id>>{{'a'}});
  CHECK((all[1].line == 3 && all[1].failure && all[1].passed == 3));
  CHECK((all[2].line == 5 && all[2].failure == "can't encode" && all[2].passed == 16));
  CHECK((all[3].line == 6 && all[3].ids == std::vector<std::vector<token_id>>{{'c'}}));
}

TEST_CASE("the queue is full by count and by bytes") {
  std::string text;
  for (int i = 0; i < 100; ++i)
    text += "{\"prompt\": \"" + std::string(100, 'a') + "\"}\n";
  scratch_file file(text);
  auto queue_setup = setup(file);
  queue_setup.max_requests = 5;
  SECTION("count") {
    CHECK(queue_setup.max_bytes > text.size() * 5); // which is no limit
  }
  SECTION("bytes") {
    queue_setup.max_requests = 100;
    CHECK(queue_setup.max_requests >= 100);
    queue_setup.max_bytes = 5 * (100 + 15 + 400) - 1;
  }
  request_queue queue(queue_setup);
  while (!queue.full())
    CHECK(queue.read_on(1000));
  CHECK_FALSE(queue.input_ended());
  int ready = 0;
  while (queue.take())
    ++ready;
  CHECK(ready == 5);
  CHECK_FALSE(queue.full());
}

TEST_CASE("a pipe with nothing in it is not waited for longer than asked") {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  scratch_file file;
  auto queue_setup = setup(file);
  queue_setup.input = ends[0];
  request_queue queue(queue_setup);
  CHECK_FALSE(queue.read_on(0));
  REQUIRE(::write(ends[1], "{\"prompt\"", 9) == 9);
  CHECK(queue.read_on(0));
  CHECK_FALSE(queue.read_on(0));
  REQUIRE(::write(ends[1], ": \"a\"}\n", 7) == 7);
  while (queue.empty())
    CHECK(queue.read_on(1000));
  CHECK_FALSE(queue.input_ended());
  ::close(ends[1]);
  while (!queue.input_ended())
    CHECK(queue.read_on(1000));
  ::close(ends[0]);
}
