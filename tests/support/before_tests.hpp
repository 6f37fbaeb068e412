// What a test program may define to end before its tests: one that has nothing to run on.
#pragma once

namespace tropilla::testing {

/// Not 0: the program's status. Where it is not defined, tests just run.
[[gnu::weak]] int before_tests(int count, char** arguments);

} // namespace tropilla::testing
