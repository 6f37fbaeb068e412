/// Marks what the shared library exports. Everything that the public headers do not mark is hidden.
#pragma once

#define TROPILLA_API __attribute__((visibility("default")))
/// Hides a nested class that a marked class declares but does not publish.
#define TROPILLA_HIDDEN __attribute__((visibility("hidden")))
