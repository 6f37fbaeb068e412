#!/usr/bin/env python3
"""cmake/cuda.cmake: for which GPUs kernels are built, and the sentence where they are not. Compilers and drivers are made
by the test; what nvcc itself must compile is skipped where there is none.

    tests/scripts/test_cuda_choice.py [Class[.test]...]

Run by ctest (label scripts).
"""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
LISTS = f"""cmake_minimum_required(VERSION 3.25)
project(choice LANGUAGES CXX)
include({ROOT}/cmake/cuda.cmake)
"""
DRIVER = """
static const int capabilities[] = {%s};
extern "C" int cuInit(unsigned) { return %d; }
extern "C" int cuDeviceGetCount(int* count) { *count = sizeof capabilities / sizeof *capabilities; return 0; }
extern "C" int cuDeviceGetAttribute(int* value, int which, int device) {
  *value = which == 75 ? capabilities[device] / 10 : capabilities[device] %% 10;
  return which == 75 || which == 76 ? 0 : 1;
}
"""


class Choice(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        (self.folder / "CMakeLists.txt").write_text(LISTS)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA")}

    def compiler(self, words):
        """An nvcc that says this of its version, and compiles nothing."""
        nvcc = self.folder / "nvcc"
        nvcc.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && echo '{words}'\n")
        nvcc.chmod(0o755)
        self.environment["CUDACXX"] = str(nvcc)

    def driver(self, *capabilities, status=0):
        """A driver that lends GPUs of these compute capabilities."""
        source = self.folder / "driver.cpp"
        source.write_text(DRIVER % (", ".join(map(str, capabilities)), status))
        subprocess.run(["c++", "-shared", "-fPIC", source, "-o", self.folder / "libcuda.so.1"], check=True)
        self.environment["LD_LIBRARY_PATH"] = str(self.folder)

    def configure(self, *options):
        """CMake's status and its words, on one line."""
        done = subprocess.run(["cmake", "-S", self.folder, "-B", self.folder / "build", *options], env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, " ".join(done.stdout.split())

    def assert_none(self, sentence, *options):
        status, words = self.configure(*options)
        self.assertEqual(status, 0, words)
        self.assertIn(f"CUDA: not built: {sentence}", words)

    def test_off_needs_nothing(self):
        self.assert_none("TROPILLA_CUDA is off", "-DTROPILLA_CUDA=OFF")

    def test_a_driver_that_fails_lends_no_gpu(self):
        self.compiler("release 13.0")
        self.driver(90, status=100)
        self.assert_none("there is no NVIDIA driver here, or it lends no GPU")

    def test_gpus_that_are_too_old_are_named(self):
        self.compiler("release 13.0")
        self.driver(75, 75)
        self.assert_none("the GPUs here have compute capability 75, and tropilla's kernels need 80 (Ampere) or newer")

    def test_an_old_nvcc_is_left_alone_unless_asked_for(self):
        self.compiler("Cuda compilation tools, release 11.8, V11.8.89")
        self.driver(90)
        self.assert_none(f"{self.folder}/nvcc is of CUDA 11.8, and tropilla needs 13.0 or newer")
        status, words = self.configure("-DTROPILLA_CUDA=ON")
        self.assertEqual(status, 1)
        self.assertIn(f"TROPILLA_CUDA is ON, but {self.folder}/nvcc is of CUDA 11.8, and tropilla needs 13.0 or newer", words)

    def test_what_is_no_nvcc_is_named(self):
        self.compiler("hello")
        self.assert_none(f"{self.folder}/nvcc --version names no release of CUDA")

    def test_an_nvcc_that_compiles_nothing_is_left_alone(self):
        self.compiler("release 13.1")
        self.driver(90)
        self.assert_none(f"{self.folder}/nvcc compiles nothing with")

    def test_a_tree_of_the_time_when_on_meant_where_nvcc_is_goes_on(self):
        self.compiler("release 11.8")
        self.assert_none(f"{self.folder}/nvcc is of CUDA 11.8", "-DTROPILLA_CUDA:BOOL=ON")

    @unittest.skipUnless(NVCC, "there is no nvcc")
    def test_kernels_are_for_the_gpus_that_are_there(self):
        self.environment["CUDACXX"] = NVCC
        self.driver(86, 90, 86)
        self.assertIn(f"CUDA: {NVCC}, for 86-real;90a-real", self.configure()[1])

    @unittest.skipUnless(NVCC, "there is no nvcc")
    def test_asked_for_they_are_for_all_or_for_those_that_are_named(self):
        self.environment["CUDACXX"] = NVCC
        self.assertIn(f"CUDA: {NVCC}, for 80-real;89-real;90a-real;90-virtual", self.configure("-DTROPILLA_CUDA=ON")[1])
        self.environment["CUDAARCHS"] = "90a-real"
        self.assertIn(f"CUDA: {NVCC}, for 90a-real", self.configure("-DTROPILLA_CUDA=ON")[1])
        del self.environment["CUDAARCHS"]
        self.assertIn(f"CUDA: {NVCC}, for 90a-real", self.configure()[1])


if __name__ == "__main__":
    unittest.main()
