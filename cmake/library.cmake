# The public library: an archive and a shared library of the same objects, and their installation.
include(GNUInstallDirs)
set(parts tropilla_memory tropilla_kernels tropilla_kernels_avx2 tropilla_kernels_avx512 tropilla_cuda_device
          tropilla_kernels_cuda tropilla_model tropilla_cast tropilla_runtime)
if(has_cuda)
  list(APPEND parts tropilla_cuda_code)
endif()
set(objects "")
set(libraries Threads::Threads)
foreach(part IN LISTS parts)
  list(APPEND objects $<TARGET_OBJECTS:${part}>)
  get_target_property(links ${part} LINK_LIBRARIES)
  list(APPEND libraries ${links})
endforeach()
list(FILTER libraries INCLUDE REGEX ::) # without the parts themselves
list(REMOVE_ITEM libraries nlohmann_json::nlohmann_json) # of which nothing is linked
list(REMOVE_DUPLICATES libraries)

add_library(tropilla_static STATIC ${objects})
add_library(tropilla_shared SHARED ${objects})
foreach(library tropilla_static tropilla_shared)
  target_compile_features(${library} PUBLIC cxx_std_20)
  target_include_directories(${library} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${library} PRIVATE ${libraries})
  set_target_properties(${library} PROPERTIES OUTPUT_NAME tropilla EXPORT_NAME tropilla LINKER_LANGUAGE CXX)
endforeach()
# Until 1.0 a minor version may change the interface.
set_target_properties(tropilla_shared PROPERTIES VERSION ${PROJECT_VERSION}
                                                 SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(exports ${PROJECT_SOURCE_DIR}/cmake/exports.map)
target_link_options(tropilla_shared PRIVATE -Wl,--version-script=${exports})
set_target_properties(tropilla_shared PROPERTIES LINK_DEPENDS ${exports})
if(NOT CMAKE_CXX_FLAGS MATCHES -fsanitize=) # whose functions are the program's
  target_link_options(tropilla_shared PRIVATE -Wl,-z,defs)
endif()

# As find_package does it: BUILD_SHARED_LIBS says which one `tropilla::tropilla` is.
set(chosen tropilla_static)
if(BUILD_SHARED_LIBS)
  set(chosen tropilla_shared)
endif()
add_library(tropilla ALIAS ${chosen})
add_library(tropilla::tropilla ALIAS ${chosen})
# For those who include tropilla/actors.hpp.
add_library(tropilla_actors INTERFACE)
target_link_libraries(tropilla_actors INTERFACE ${chosen} CAF::core)
add_library(tropilla::actors ALIAS tropilla_actors)

if(NOT TROPILLA_INSTALL)
  return()
endif()

include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/tropilla)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/tropilla DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT library)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT library)
foreach(kind static shared) # apart, because only the archive's users need what it links
  install(TARGETS tropilla_${kind} EXPORT tropilla-${kind} COMPONENT library
          LIBRARY NAMELINK_COMPONENT library)
  install(EXPORT tropilla-${kind} NAMESPACE tropilla:: DESTINATION ${package} COMPONENT library)
endforeach()

# What the archive's users need: packages for CMake, and what pkg-config adds to the command that links.
set(packages Threads fmt)
# Not as modules that this one requires: `pkg-config --static` would add what their own archives need (hwloc's: libudev),
# which need not be installed, for it is their shared libraries that are linked.
set(plain -lcaf_core -lfmt -pthread)
foreach(entry IN LISTS pkg_config_modules)
  string(REGEX REPLACE "=.*" "" name ${entry})
  list(APPEND plain ${TROPILLA_${name}_LDFLAGS})
endforeach()
if(has_cuda)
  list(APPEND packages CUDAToolkit)
  list(APPEND plain -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt)
endif()
list(JOIN packages " " packages)
list(JOIN pkg_config_modules " " pkg_config_modules)
list(JOIN plain " " plain)
set(metadata ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH prefix ${metadata} ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/tropilla.pc.in tropilla.pc @ONLY)
configure_file(cmake/tropilla-config.cmake.in tropilla-config.cmake @ONLY)
write_basic_package_version_file(tropilla-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tropilla-config.cmake ${PROJECT_BINARY_DIR}/tropilla-config-version.cmake
              ${PROJECT_SOURCE_DIR}/cmake/FindCAF.cmake DESTINATION ${package} COMPONENT library)
install(FILES ${PROJECT_BINARY_DIR}/tropilla.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT library)
