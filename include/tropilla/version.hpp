/// The version of these headers. CMake, the installed package and `tropilla --version` read it from here.
#pragma once

#define TROPILLA_VERSION_MAJOR 0
#define TROPILLA_VERSION_MINOR 1
#define TROPILLA_VERSION_PATCH 0

/// As one number, for the preprocessor: 0.1.0 is 100, 1.2.3 is 10203.
#define TROPILLA_VERSION (TROPILLA_VERSION_MAJOR * 10000 + TROPILLA_VERSION_MINOR * 100 + TROPILLA_VERSION_PATCH)
