# Runs TARGET for 20 seconds on a copy of CORPUS made under FOLDER.
file(REMOVE_RECURSE ${FOLDER}/corpus)
file(MAKE_DIRECTORY ${FOLDER}/corpus)
file(GLOB inputs ${CORPUS}/*)
if(NOT inputs)
  message(FATAL_ERROR "there is no corpus in ${CORPUS}")
endif()
file(COPY ${inputs} DESTINATION ${FOLDER}/corpus)
execute_process(COMMAND ${TARGET} -max_total_time=20 -rss_limit_mb=512 -timeout=10 -print_final_stats=1
                        -artifact_prefix=${FOLDER}/ ${FOLDER}/corpus
                RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "the fuzzer found an input that fails (${result}); it is in ${FOLDER}")
endif()
