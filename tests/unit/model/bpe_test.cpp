// Merging against a reference that looks at every pair every time, and texts of one kind of character a MiB long.
#include "src/model/bpe.hpp"
#include "src/model/tokenizer.hpp"
#include "tests/unit/model/vocabularies.hpp"

#include <catch2/catch.hpp>
#include <map>
#include <random>

using namespace tropilla;
using tropilla::testing::recorded_vocabulary;
using tropilla::testing::spell;

namespace {

using pair_ranks = std::map<std::pair<token_id, token_id>, std::pair<std::size_t, token_id>>;

// Merges the leftmost of the pairs with the lowest rank until there is none.
std::vector<token_id> reference_merge(const pair_ranks& ranks, std::vector<token_id> word) {
  while (true) {
    std::size_t best_rank = SIZE_MAX;
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < word.size(); ++i)
      if (const auto found = ranks.find({word[i], word[i + 1]});
          found != ranks.end() && found->second.first < best_rank) {
        best_rank = found->second.first;
        best = i;
      }
    if (best_rank == SIZE_MAX)
      return word;
    word[best] = ranks.at({word[best], word[best + 1]}).second;
    word.erase(word.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

} // namespace

TEST_CASE("merging short and long words equals the plain definition") {
  std::mt19937 draw(11); // NOLINT: the same words each time
  for (int round = 0; round < 120; ++round) {
    const token_id letters = 1 + static_cast<token_id>(draw() % 4);
    pair_ranks ranks;
    merge_table table;
    const std::size_t merges = draw() % 40;
    table.reserve(merges);
    for (std::size_t rank = 0; rank < merges; ++rank) {
      const auto any = [&] { return static_cast<token_id>(draw() % (static_cast<std::size_t>(letters) + rank)); };
      // A merge may repeat an earlier pair: the earlier counts.
      const merge_table::merge m{any(), any(), letters + static_cast<token_id>(rank)};
      table.add(m);
      ranks.insert({{m.left, m.right}, {rank, m.result}});
    }
    bpe_merger merger;
    for (const std::size_t length : {0, 1, 2, 3, 7, 47, 48, 49, 50, 64, 200, 333}) {
      std::vector<token_id> word(length);
      for (token_id& id : word)
        id = static_cast<token_id>(draw() % static_cast<unsigned>(letters));
      std::vector<token_id> got{-7}; // what is there stays
      merger.merge(table, word, got);
      std::vector<token_id> expected = reference_merge(ranks, word);
      expected.insert(expected.begin(), -7);
      REQUIRE(got == expected);
    }
  }
}

TEST_CASE("the byte alphabet covers each byte and nothing else") {
  std::string every;
  for (int byte = 0; byte < 256; ++byte)
    every += static_cast<char>(byte);
  std::string out = "x";
  REQUIRE(append_alphabet_bytes(spell(every), out));
  CHECK(out == "x" + every);
  for (const char* foreign :
       {" ", "\n", "\u00AD", "\u00A0", "\u0144", "\u2581", "a b", "\xC4", "\xC4x", "\xFF", "€", "\x7F"}) {
    CAPTURE(foreign);
    out = "kept";
    CHECK_FALSE(append_alphabet_bytes(foreign, out));
    CHECK(out == "kept");
  }
  CHECK(append_alphabet_bytes("Ġthe", out));
  CHECK(out == "kept the");
}

TEST_CASE("the index of an empty vocabulary finds nothing") {
  const token_texts texts;
  const token_index index;
  CHECK(index.find(texts, "a") == -1);
  CHECK(index.find(texts, "") == -1);
}

// A quadratic step would take minutes: the suite's time limit is the assertion.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t long_text = std::size_t{1} << 18; // instrumented, 1 MiB takes half a minute
#else
constexpr std::size_t long_text = std::size_t{1} << 20;
#endif

TEST_CASE("a long text of anything is cut and merged in linear time, and comes back") {
  std::mt19937 draw(5); // NOLINT: the same bytes each time
  std::string noise(long_text, 0);
  for (char& c : noise)
    c = static_cast<char>(draw());
  std::vector<std::string> texts{noise};
  for (const std::string unit :
       {"a", " ", "7", "\n", " \n", "\r\n\t ", "😀", "'", "\xFF", "\xC2\xA0", "<|", "<|im_start|"}) {
    std::string text;
    while (text.size() < long_text)
      text += unit;
    texts.push_back(text);
    texts.push_back(text + "x");
  }
  for (const std::string pre : {"llama-bpe", "gpt-2", "default"}) {
    const tokenizer tok(recorded_vocabulary("llama3", pre));
    for (const std::string& text : texts) {
      const auto ids = tok.encode(text, {.special = true});
      CAPTURE(pre, text.substr(0, 8), ids.size());
      REQUIRE(tok.decode(ids, true) == text);
    }
  }
  const tokenizer smollm(recorded_vocabulary("smollm", "smollm"));
  for (std::size_t i = 1; i < texts.size(); ++i)
    if (texts[i][0] != '\xFF') {
      REQUIRE(smollm.decode(smollm.encode(texts[i])) == texts[i]);
    }
}
