// The store of KV pages: both tiers, what leaves them first, their budgets, and threads at once.
#include "src/io/kv_store.hpp"

#include "tests/support/kv_chains.hpp"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <stdexcept>
#include <thread>

using namespace tropilla;
using namespace tropilla::testing;

TEST_CASE("pages come back from host memory as they were saved") {
  kept_pages k(10, 0);
  const chain c(k.store->root(), 10, 100);
  CHECK(stored(*k.store, c) == 0);
  CHECK(save(*k.store, c) == 10);
  CHECK(stored(*k.store, c) == 10);
  CHECK(restore(*k.store, c) == 10);
  const auto u = k.store->usage();
  CHECK(u.host_pages == 10);
  CHECK(u.host_bytes == 10 * small_slot);
  CHECK(u.saved == 10);
  CHECK(u.restored == 10);
  CHECK(u.disk_pages + u.disk_bytes + u.damaged == 0);
  CHECK(k.memory.peak == 10 * small_slot);
  CHECK(k.said.all.empty());
}

TEST_CASE("pages come back from the disk as they were saved, without host memory") {
  const kv_folder folder("disk");
  kept_pages k(0, 20, folder.path);
  const chain c(k.store->root(), 20, 100);
  CHECK(save(*k.store, c) == 20);
  CHECK(stored(*k.store, c) == 20);
  CHECK(restore(*k.store, c) == 20);
  const auto u = k.store->usage();
  CHECK(u.host_pages == 0);
  CHECK(u.disk_pages == 20);
  CHECK(u.disk_bytes == file_of(20));
  CHECK(folder.bytes() == file_of(20));
  CHECK(k.memory.peak <= 5 * small_slot);
  CHECK(k.said.all.empty());
}

TEST_CASE("what leaves host memory goes to the disk, and comes back to host memory") {
  const kv_folder folder("both");
  kept_pages k(8, 50, folder.path);
  const chain a(k.store->root(), 20, 100), b(k.store->root(), 20, 5000);
  CHECK(save(*k.store, a) == 20);
  CHECK(save(*k.store, b) == 20);
  CHECK(stored(*k.store, a) == 20);
  CHECK(stored(*k.store, b) == 20);
  CHECK(restore(*k.store, a) == 20);
  CHECK(restore(*k.store, b) == 20);
  const auto before = k.store->usage();
  CHECK(before.host_pages == 6); // two slots are staging
  CHECK(before.damaged == 0);
  k.store->flush();
  CHECK(k.store->usage().disk_pages == 40);
  CHECK(restore(*k.store, a) == 20);
  CHECK(restore(*k.store, b) == 20);
  CHECK(k.memory.peak <= 8 * small_slot);
  CHECK(k.said.all.empty());
}

TEST_CASE("the chain that was not used for longest leaves first, from its end") {
  for (const bool disk : {false, true}) {
    const kv_folder folder("order");
    kept_pages k(disk ? 0 : 10, disk ? 10 : 0, folder.path);
    const chain a(k.store->root(), 4, 100), b(k.store->root(), 4, 2000), c(k.store->root(), 4, 3000);
    CHECK(save(*k.store, a) == 4);
    CHECK(save(*k.store, b) == 4);
    CHECK(stored(*k.store, a) == 4); // a use
    CHECK(save(*k.store, c) == 4);
    CHECK(stored(*k.store, b) == 2);
    CHECK(restore(*k.store, a) == 4);
    CHECK(stored(*k.store, c) == 4);
    CHECK(stored(*k.store, b) == 2);
    CHECK(restore(*k.store, b) == 2);
  }
}

TEST_CASE("a chain that is longer than the store keeps its beginning") {
  for (const bool disk : {false, true}) {
    const kv_folder folder("long");
    kept_pages k(disk ? 0 : 6, disk ? 6 : 0, folder.path);
    const chain c(k.store->root(), 9, 100);
    CHECK(save(*k.store, c) == 6);
    CHECK(stored(*k.store, c) == 6);
    CHECK(restore(*k.store, c) == 6);
    CHECK(save(*k.store, c) == 6); // again: nothing is displaced by its own successors
    CHECK(restore(*k.store, c) == 6);
    const chain other(k.store->root(), 3, 5000);
    CHECK(save(*k.store, other) == 3); // a later use displaces its end
    CHECK(stored(*k.store, c) == 3);
    CHECK(save(*k.store, c) == 6); // and again
    CHECK(stored(*k.store, other) == 0);
  }
  const kv_folder folder("long");
  kept_pages k(6, 6, folder.path);
  const chain c(k.store->root(), 30, 100);
  CHECK(save(*k.store, c) == 10); // four in host memory, six on the disk
  CHECK(restore(*k.store, c) == 10);
  k.store->flush();
  k.store.reset();
  kept_pages again(6, 6, folder.path);
  CHECK(restore(*again.store, c) == 6);
}

TEST_CASE("pages that two chains share outlive what only one of them has") {
  kept_pages k(7, 0);
  chain a(k.store->root(), 5, 100), b = a;
  for (std::size_t i = 3 * kv_page_tokens; i < b.tokens.size(); ++i)
    ++b.tokens[i];
  b.keys.resize(3);
  add_page_keys(b.root, b.tokens, b.keys);
  CHECK(save(*k.store, a) == 5);
  CHECK(save(*k.store, b) == 5);
  CHECK(k.store->usage().host_pages == 7);
  const chain c(k.store->root(), 2, 9000);
  CHECK(save(*k.store, c) == 2);
  CHECK(stored(*k.store, a) == 3);
  CHECK(stored(*k.store, b) == 5);
}

TEST_CASE("what was flushed is there after the store was closed, with the order of its uses") {
  const kv_folder folder("reopened");
  page_key root;
  {
    kept_pages k(20, 12, folder.path);
    root = k.store->root();
    CHECK(save(*k.store, chain(root, 4, 100)) == 4);
    CHECK(save(*k.store, chain(root, 4, 2000)) == 4);
    CHECK(save(*k.store, chain(root, 4, 3000)) == 4);
    k.store->flush();
    CHECK(stored(*k.store, chain(root, 4, 100)) == 4); // after it was written
  }
  kept_pages k(0, 12, folder.path);
  CHECK(k.store->root() == root);
  const chain a(root, 4, 100), b(root, 4, 2000), c(root, 4, 3000), d(root, 3, 4000);
  CHECK(k.store->usage().disk_pages == 12);
  CHECK(restore(*k.store, c) == 4);
  CHECK(save(*k.store, d) == 3);
  CHECK(stored(*k.store, b) == 1);
  CHECK(restore(*k.store, a) == 4);
  CHECK(restore(*k.store, c) == 4);
  CHECK(k.said.all.empty());
}

TEST_CASE("without a flush, what was in host memory only is gone") {
  const kv_folder folder("unflushed");
  {
    kept_pages k(20, 12, folder.path);
    CHECK(save(*k.store, chain(k.store->root(), 4, 100)) == 4);
    CHECK(folder.bytes() == file_of(0));
  }
  kept_pages k(20, 12, folder.path);
  CHECK(stored(*k.store, chain(k.store->root(), 4, 100)) == 0);
}

TEST_CASE("prefetched pages are in host memory before they are wanted") {
  const kv_folder folder("prefetched");
  page_key root;
  {
    kept_pages k(0, 12, folder.path);
    root = k.store->root();
    CHECK(save(*k.store, chain(root, 12, 100)) == 12);
  }
  kept_pages k(10, 12, folder.path);
  const chain c(root, 12, 100);
  k.store->prefetch(c.wanted());
  CHECK(k.store->usage().host_pages == 8); // two slots are staging
  CHECK(k.store->usage().restored == 0);
  std::filesystem::resize_file(folder.path / "00000000000000010000000000000007.kv", file_of(0));
  CHECK(restore(*k.store, c) == 8);
}

TEST_CASE("a page under a key of another's, or with other tokens, is not given out") {
  kept_pages k(4, 0);
  const chain a(k.store->root(), 2, 100), b(k.store->root(), 2, 7000);
  CHECK(save(*k.store, a) == 2);
  const auto use = [](std::size_t, std::span<const std::byte>) {};
  std::vector<kv_store::wanted> wanted{{a.before(0), a.keys[0], b.tokens_of(0)}};
  CHECK(k.store->restore(wanted, use) == 0);
  wanted = {{b.keys[0], a.keys[0], a.tokens_of(0)}};
  CHECK(k.store->restore(wanted, use) == 0);
  CHECK(restore(*k.store, a) == 2);
}

TEST_CASE("a callback that throws leaves the store as it was") {
  const kv_folder folder("thrown");
  for (const bool disk : {false, true}) {
    kept_pages k(disk ? 0 : 3, disk ? 3 : 0, folder.path);
    const chain c(k.store->root(), 3, 100);
    for (int i = 0; i < 20; ++i) { // more often than there are slots
      CHECK_THROWS_AS(
          k.store->save(c.wanted(), [](std::size_t, std::span<std::byte>) { throw std::runtime_error("no"); }),
          std::runtime_error);
      CHECK(stored(*k.store, c) == 0);
    }
    CHECK(save(*k.store, c) == 3);
    for (int i = 0; i < 20; ++i)
      CHECK_THROWS_AS(k.store->restore(c.wanted(),
                                       [](std::size_t page, std::span<const std::byte>) {
                                         if (page == 1)
                                           throw std::runtime_error("no");
                                       }),
                      std::runtime_error);
    CHECK(restore(*k.store, c) == 3);
    const chain other(k.store->root(), 3, 900); // pins that stay would keep the old pages
    CHECK(save(*k.store, other) == 3);
  }
}

TEST_CASE("memory without pages goes back to the system") {
  const kv_folder folder("trimmed");
  kept_pages k(20, 40, folder.path);
  const chain c(k.store->root(), 30, 100);
  CHECK(save(*k.store, c) == 30);
  k.store->trim();
  CHECK(k.memory.bytes == k.store->usage().host_bytes);
  CHECK(k.memory.bytes == 18 * small_slot); // the staging went
  CHECK(restore(*k.store, c) == 30);
  k.store->flush();
  k.store.reset();
  CHECK(k.memory.bytes == 0);
  kept_pages again(20, 40, folder.path);
  CHECK(restore(*again.store, c) == 30);
  again.store->trim();
  CHECK(again.memory.bytes == 18 * small_slot);
  std::filesystem::resize_file(folder.path / "00000000000000010000000000000007.kv", file_of(0));
  kept_pages damaged(0, 40, folder.path, 8);
  const chain d(damaged.store->root(), 5, 100);
  CHECK(save(*damaged.store, d) == 5);
  CHECK(damaged.memory.bytes > 0);
  std::filesystem::resize_file(folder.path / "00000000000000010000000000000008.kv", file_of(0));
  CHECK(restore(*damaged.store, d) == 0);
  damaged.store->trim();
  CHECK(damaged.memory.bytes == 0); // what could not be read holds none
}

TEST_CASE("memory comes and goes in slabs, and the budget holds for all of them") {
  auto o = kept_pages::options(0, 0, "");
  o.page_bytes = std::size_t{6} << 20; // two of them fill a slab
  const auto slot = kv_slot_bytes(o.page_bytes);
  o.host_bytes = 5 * slot + slot / 2;
  kept_pages k(o);
  const chain c(k.store->root(), 5, 100);
  for (std::size_t page = 0; page < c.size(); ++page) {
    REQUIRE(save_page(*k.store, c, page));
    CHECK(k.memory.bytes == (page < 2 ? 2 : page < 4 ? 4 : 5) * slot);
  }
  CHECK_FALSE(save_page(*k.store, chain(k.store->root(), 6, 100), 5)); // all others are before it
  k.store->trim();
  CHECK(k.memory.bytes == 5 * slot);
  CHECK(k.memory.bytes == k.store->usage().host_bytes);
  std::size_t right = 0;
  CHECK(k.store->restore(c.wanted(), [&](std::size_t page, std::span<const std::byte> bytes) {
    right += is_filled(c.keys[page], bytes);
  }) == 5);
  CHECK(right == 5);
}

TEST_CASE("a slab goes back to the system when its last slot does") {
  kv_slabs slabs(std::size_t{8} << 20, 5);
  watched_memory memory;
  const auto make = memory.maker();
  std::vector<std::byte*> taken;
  while (taken.size() < 5) {
    if (auto* const slot = slabs.take()) {
      taken.push_back(slot);
      continue;
    }
    const auto slots = slabs.begin_growth();
    REQUIRE(slots == (taken.size() < 4 ? 2 : 1));
    CHECK(slabs.bytes() > memory.bytes); // it counts before it is there
    slabs.end_growth(slots, make(slots * slabs.slot_bytes()));
  }
  CHECK(slabs.take() == nullptr);
  CHECK(slabs.begin_growth() == 0);
  std::ranges::sort(taken);
  CHECK(std::ranges::adjacent_find(taken) == taken.end());
  for (auto* const slot : taken)
    *slot = std::byte{1};
  std::shuffle(taken.begin(), taken.end(), std::mt19937(2));
  for (const auto held : {4, 3, 2, 1, 0}) {
    slabs.give_back(taken.back());
    taken.pop_back();
    auto empty = slabs.begin_release();
    CHECK(slabs.bytes() == memory.bytes); // it counts until it is gone
    empty.clear();
    slabs.end_release();
    CHECK(slabs.bytes() == memory.bytes);
    CHECK(memory.bytes / slabs.slot_bytes() <= static_cast<std::size_t>(held == 0 ? 0 : 2 * held));
  }
  const auto slots = slabs.begin_growth();
  slabs.end_growth(slots, nullptr);
  CHECK(slabs.begin_growth() == 0); // what failed is not tried again
}

TEST_CASE("a file of many pages grows by several at a time, and is as long as its pages when it is closed") {
  const kv_folder folder("chunks");
  page_key root;
  {
    kept_pages k(0, 3000, folder.path);
    root = k.store->root();
    const chain c(root, 1500, 100);
    CHECK(save(*k.store, c) == 1500);
    CHECK(k.store->usage().disk_bytes == file_of(2048));
    CHECK(folder.bytes() == file_of(2048));
  }
  CHECK(folder.bytes() == file_of(1500));
  kept_pages k(0, 1600, folder.path);
  CHECK(restore(*k.store, chain(root, 1500, 100)) == 1500);
  CHECK(save(*k.store, chain(root, 1700, 100)) == 1600);
  CHECK(folder.bytes() == file_of(1600));
  CHECK(k.said.all.empty());
}

TEST_CASE("memory that the system refuses is a notice, and the store does with what it has") {
  const kv_folder folder("refused");
  kept_pages k(20, 40, folder.path);
  k.memory.refuses = true;
  const chain c(k.store->root(), 10, 100);
  CHECK(save(*k.store, c) == 0);
  CHECK(save(*k.store, c) == 0);
  CHECK(restore(*k.store, c) == 0);
  CHECK(k.said.all.size() == 1);
  CHECK(k.said.with("does not grow any more") == 1);
  CHECK(k.store->usage().host_bytes == 0);
  auto o = kept_pages::options(4, 0, "");
  o.make_buffer = [](std::size_t) -> std::shared_ptr<std::byte> { throw std::bad_alloc(); };
  kv_store silent(o);
  CHECK(save(silent, c) == 0);
}

TEST_CASE("a budget for host memory that holds no page is a notice") {
  const kv_folder folder("little");
  auto o = kept_pages::options(0, 0, "");
  o.host_bytes = small_slot - 1;
  kept_pages none(o);
  CHECK(none.said.with("a page has 8.0 KiB") == 1);
  CHECK(save(*none.store, chain(none.store->root(), 2, 100)) == 0);
  kept_pages one(1, 10, folder.path);
  CHECK(one.said.with("two pages have 16.0 KiB") == 1);
  CHECK(save(*one.store, chain(one.store->root(), 2, 100)) == 2);
}

TEST_CASE("stores without a file have keys of their own") {
  const kept_pages a(1, 0), b(1, 0);
  CHECK(a.store->root() != b.store->root());
}

namespace {

/// What a store may have: every page that was saved, with the number of the last time.
struct reference {
  std::vector<chain> chains;
  explicit reference(std::mt19937& random, page_key root) {
    // A tree: each chain begins as one before it, for a while.
    for (int i = 0; i < 12; ++i) {
      chain c(root, 1 + random() % 12, static_cast<token_id>(1000 * i));
      if (i > 0 && random() % 3 > 0) {
        const auto& other = chains[random() % chains.size()];
        const auto same = random() % (std::min(other.size(), c.size()) + 1) * kv_page_tokens;
        std::copy_n(other.tokens.begin(), same, c.tokens.begin());
        c.keys.clear();
        add_page_keys(root, c.tokens, c.keys);
      }
      chains.push_back(std::move(c));
    }
  }
};

} // namespace

TEST_CASE("whatever is saved and restored in whatever order, bytes are right, budgets hold and no page is an orphan") {
  std::mt19937 random(11);
  std::size_t restored = 0, evicted = 0;
  for (int round = 0; round < 100; ++round) {
    INFO("round " << round);
    const kv_folder folder("random");
    const std::size_t host = random() % 3 == 0 ? 0 : random() % 30;
    const std::size_t disk = random() % 3 == 0 ? 0 : 1 + random() % 40;
    std::optional<kept_pages> k;
    k.emplace(host, disk, folder.path);
    std::optional<reference> ref;
    ref.emplace(random, k->store->root());
    const auto max_memory = (host < 2 && disk > 0 ? 5 : host) * small_slot;
    std::map<page_key, bool> saved;
    for (int i = 0; i < 120; ++i) {
      const auto& c = ref->chains[random() % ref->chains.size()];
      switch (random() % 8) {
      case 0:
      case 1: {
        const auto n = save(*k->store, c);
        REQUIRE(stored(*k->store, c) >= n); // what was just stored is there, and all before it
        for (std::size_t page = 0; page < n; ++page)
          saved[c.keys[page]] = true;
        break;
      }
      case 2:
        for (std::size_t page = 0; page < c.size() && save_page(*k->store, c, page); ++page) {
          saved[c.keys[page]] = true;
          REQUIRE(stored(*k->store, c) > page);
        }
        break;
      case 3:
      case 4: {
        const auto there = stored(*k->store, c);
        REQUIRE(restore(*k->store, c) == there);
        restored += there;
        break;
      }
      case 5:
        k->store->prefetch(c.wanted());
        break;
      case 6:
        k->store->flush();
        break;
      case 7:
        k->store->trim();
        if (random() % 4 == 0 && disk > 0) { // the next run
          k->store->flush();
          const auto root = k->store->root();
          const auto pages = k->store->usage().disk_pages;
          k.reset();
          REQUIRE(folder.bytes() <= file_of(disk));
          k.emplace(host, disk, folder.path);
          REQUIRE(k->store->root() == root);
          REQUIRE(k->store->usage().disk_pages == pages);
        }
        break;
      }
      const auto u = k->store->usage();
      REQUIRE(u.damaged == 0);
      REQUIRE(k->memory.peak <= max_memory);
      REQUIRE(k->memory.bytes == u.host_bytes);
      REQUIRE(folder.bytes() <= (disk == 0 ? 0 : file_of(disk)));
      if (random() % 6 > 0)
        continue; // what follows uses all chains
      std::map<page_key, bool> reachable;
      for (const auto& chain : ref->chains) {
        const auto there = stored(*k->store, chain);
        for (std::size_t page = 0; page < there; ++page)
          REQUIRE(saved.contains(chain.keys[page]));
        for (std::size_t page = 0; page < chain.size(); ++page)
          reachable[chain.keys[page]] |= page < there;
        evicted += there < chain.size() && saved.contains(chain.keys[there]);
      }
      // Without an orphan, what is reachable from the root is all that there is.
      std::size_t pages = 0;
      for (const auto& [key, is] : reachable)
        pages += is;
      REQUIRE(pages <= u.host_pages + u.disk_pages);
      REQUIRE(std::max<std::size_t>(u.host_pages, u.disk_pages) <= pages);
    }
  }
  CHECK(restored > 1000);
  CHECK(evicted > 1000);
}

TEST_CASE("three threads save, restore and ask at once") {
  const kv_folder folder("threads");
  for (const auto& [host, disk] : {std::pair{12, 0}, {0, 30}, {12, 30}}) {
    kept_pages k(static_cast<std::size_t>(host), static_cast<std::uint64_t>(disk), folder.path, 7 + host);
    std::vector<chain> chains;
    for (token_id i = 0; i < 8; ++i)
      chains.emplace_back(k.store->root(), 8, 1000 * i);
    std::atomic<bool> over = false;
    std::atomic<std::size_t> wrong = 0, restored = 0;
    std::jthread restores([&] {
      std::mt19937 random(3);
      while (!over) {
        const auto& c = chains[random() % chains.size()];
        if (random() % 8 == 0)
          k.store->prefetch(c.wanted());
        const auto n = restore(*k.store, c);
        n > c.size() ? ++wrong : restored += n;
      }
    });
    std::jthread asks([&] {
      std::mt19937 random(4);
      while (!over) {
        if (stored(*k.store, chains[random() % chains.size()]) > 8)
          ++wrong;
        if (random() % 50 == 0)
          k.store->trim();
        if (k.store->usage().host_bytes > 12 * small_slot)
          ++wrong;
      }
    });
    std::mt19937 random(5);
    for (int i = 0; i < 600 || restored < 100; ++i) {
      (void)save(*k.store, chains[random() % chains.size()]);
      if (random() % 20 == 0)
        k.store->flush();
    }
    over = true;
    restores.join();
    asks.join();
    CHECK(wrong == 0);
    CHECK(restored > 0);
    CHECK(k.store->usage().damaged == 0);
    CHECK(k.memory.peak <= 12 * small_slot);
    CHECK(folder.bytes() <= file_of(30));
    for (const auto& c : chains)
      CHECK(restore(*k.store, c) <= c.size());
  }
}
