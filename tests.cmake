# The tests. They stand beside the code, in one program a room, as loading LibTorch takes a while.
# Labels: `ctest -L quick` is for every change, within a minute; `slow` is the rest of what ./test
# runs; `nightly` runs by name only. Three run at a time, as some wait for the disk. What tests how
# threads work together has ALL_CORES; the others compute on one, as threads that wait for each other
# on a core that another test has take twice the time.
find_package(GTest REQUIRED)

# Tests are compiled quickly rather than well: a few files of a program as one, at -O1, and
# with their longest headers read once, for those that work with tensors and for the others. So the
# files of one program do not share names.
set(TEST_OPTIONS -O1)
if(GIGAGPT_SANITIZE)
  set(TEST_OPTIONS -O0 -fno-sanitize=undefined)  # it is what they test that is checked for both
endif()
set(TEST_HEADERS <filesystem> <fstream> <functional> <map> <regex> <thread>
                 <fmt/ranges.h> <gtest/gtest.h> <nlohmann/json.hpp>)
file(WRITE ${GENERATED}/only_headers.cpp "")
add_library(test_headers OBJECT ${GENERATED}/only_headers.cpp)
target_compile_options(test_headers PRIVATE ${TEST_OPTIONS})
target_link_libraries(test_headers PRIVATE GTest::gtest fmt::fmt nlohmann_json::nlohmann_json)
target_precompile_headers(test_headers PRIVATE ${TEST_HEADERS})
add_library(tensor_test_headers OBJECT ${GENERATED}/only_headers.cpp)
target_compile_options(tensor_test_headers PRIVATE ${TEST_OPTIONS})
target_link_libraries(tensor_test_headers PRIVATE ops GTest::gtest)
target_precompile_headers(tensor_test_headers PRIVATE ${LIBTORCH_HEADERS} ${TEST_HEADERS})

# room_test(NAME [ALL_CORES] [TENSORS] [LABEL label] [SHARDS n] SOURCES ... LIBRARIES ...): a test
# program and its test, or with SHARDS as many, NAME_0 and so on, which begin first.
function(room_test name)
  cmake_parse_arguments(ROOM "ALL_CORES;TENSORS" "LABEL;SHARDS" "SOURCES;LIBRARIES" ${ARGN})
  add_executable(${name}_test ${ROOM_SOURCES})
  target_compile_definitions(${name}_test PRIVATE
    GIGAGPT_SOURCE_DIR="${CMAKE_SOURCE_DIR}" GIGAGPT_BINARY_DIR="${CMAKE_BINARY_DIR}"
    GIGAGPT_VERSION="${PROJECT_VERSION}")
  target_link_libraries(${name}_test PRIVATE ${ROOM_LIBRARIES} GTest::gtest_main)
  set_target_properties(${name}_test PROPERTIES UNITY_BUILD ${CMAKE_UNITY_BUILD} UNITY_BUILD_BATCH_SIZE 6)
  target_compile_options(${name}_test PRIVATE ${TEST_OPTIONS})
  if(ROOM_TENSORS)
    target_precompile_headers(${name}_test REUSE_FROM tensor_test_headers)
  else()
    target_precompile_headers(${name}_test REUSE_FROM test_headers)
  endif()
  if(NOT ROOM_SHARDS)
    add_test(NAME ${name} COMMAND ${name}_test)
    describe_test(${name} "${ROOM_LABEL}" ${ROOM_ALL_CORES})
    return()
  endif()
  math(EXPR last "${ROOM_SHARDS} - 1")
  foreach(shard RANGE ${last})
    add_test(NAME ${name}_${shard} COMMAND ${name}_test)
    describe_test(${name}_${shard} "${ROOM_LABEL}" ${ROOM_ALL_CORES})
    set_tests_properties(${name}_${shard} PROPERTIES COST 100)
    set_property(TEST ${name}_${shard} APPEND PROPERTY ENVIRONMENT
                 GTEST_TOTAL_SHARDS=${ROOM_SHARDS} GTEST_SHARD_INDEX=${shard})
  endforeach()
endfunction()

function(describe_test name label all_cores)
  if(NOT label)
    set(label quick)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${label})
  if(NOT all_cores)
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT OMP_NUM_THREADS=1)
  else()
    cmake_host_system_information(RESULT cores QUERY NUMBER_OF_LOGICAL_CORES)
    set_tests_properties(${name} PROPERTIES PROCESSORS ${cores})
  endif()
endfunction()

room_test(base SOURCES base/async_file_test.cpp base/control_groups_test.cpp base/energy_test.cpp base/file_test.cpp base/lock_test.cpp
          base/option_test.cpp base/random_test.cpp base/trace_test.cpp
          LIBRARIES base)
room_test(formats SOURCES formats/dataset_test.cpp formats/gguf_test.cpp formats/hf_gpt2_test.cpp
          formats/run_files_test.cpp formats/safetensors_test.cpp formats/stored_weights_test.cpp
          formats/tensorboard_test.cpp formats/tokenizer_test.cpp
          LIBRARIES formats)
room_test(tokenizer SOURCES formats/bpe_test.cpp formats/bpe_trainer_test.cpp
          formats/gpt2_split_test.cpp formats/tokenizer_json_test.cpp cli/tokenizer_test.cpp
          LIBRARIES prepare)
room_test(corpus SOURCES formats/corpus_test.cpp LIBRARIES corpus LibArchive::LibArchive)
room_test(ops ALL_CORES TENSORS LABEL slow SOURCES ops/attention_test.cpp ops/compact_test.cpp
          ops/head_test.cpp ops/linear_test.cpp ops/multiplier_test.cpp ops/normalization_test.cpp ops/optimizer_test.cpp ops/page_allocator_test.cpp
          ops/rope_test.cpp
          LIBRARIES ops)
room_test(plan SOURCES engine/plan/cost_test.cpp engine/plan/machine_test.cpp engine/plan/plan_test.cpp engine/state/layout_test.cpp
          engine/state/parametrisation_test.cpp
          LIBRARIES plan)
room_test(engine ALL_CORES TENSORS LABEL slow SOURCES engine/run/executor_test.cpp
          engine/run/file_storage_fault_test.cpp engine/run/file_storage_test.cpp
          engine/run/forecast_test.cpp engine/run/optimizer_reference_test.cpp
          engine/run/transpose_test.cpp
          LIBRARIES engine)
room_test(check ALL_CORES TENSORS LABEL slow SOURCES engine/check/check_test.cpp gpt/check_test.cpp LIBRARIES check_gpt)
room_test(law_fit SOURCES gpt/collapse_test.cpp gpt/law_file_test.cpp gpt/law_fit_test.cpp LIBRARIES law_fit)
room_test(run_directory TENSORS SOURCES engine/run/run_directory_test.cpp LIBRARIES engine)
room_test(cluster SOURCES engine/systems/cluster_test.cpp LIBRARIES systems)
room_test(power_loss LABEL slow SOURCES engine/storage/power_loss_test.cpp LIBRARIES storage)
room_test(gpt ALL_CORES TENSORS LABEL slow SOURCES gpt/config_test.cpp gpt/documents_test.cpp gpt/llama_test.cpp
          gpt/folded_test.cpp gpt/law_test.cpp gpt/model_test.cpp gpt/stored_tensors_test.cpp gpt/train_disk_test.cpp gpt/train_state_test.cpp gpt/train_test.cpp
          gpt/train_watch_test.cpp
          LIBRARIES gpt yaml-cpp)
room_test(cli LABEL slow SHARDS 2 SOURCES cli/arguments_test.cpp cli/display_test.cpp cli/figure_test.cpp
          cli/inspect_state_test.cpp cli/inspect_test.cpp cli/law_test.cpp cli/older_store_test.cpp cli/plan_text_test.cpp cli/plot_test.cpp
          cli/programs_test.cpp cli/run_settings_test.cpp cli/yaml_test.cpp
          LIBRARIES inspect plot storage)
add_dependencies(cli_test gigagpt gigagpt-compute)
room_test(export SOURCES cli/export_test.cpp LIBRARIES inspect)
room_test(prepare SOURCES cli/prepare_corpus_test.cpp cli/prepare_test.cpp
          LIBRARIES prepare LibArchive::LibArchive)
room_test(launch SOURCES cli/launch_test.cpp LIBRARIES arguments)

# Where a disk is not the point, or is simulated, files are in RAM, if there is room.
execute_process(COMMAND df --output=avail -k /dev/shm OUTPUT_VARIABLE MEMORY_KIB ERROR_QUIET)
string(REGEX MATCH "[0-9]+" MEMORY_KIB "${MEMORY_KIB}")
function(files_in_memory)
  if(MEMORY_KIB GREATER 4000000)
    foreach(test ${ARGN})
      set_property(TEST ${test} APPEND PROPERTY ENVIRONMENT TMPDIR=/dev/shm)
    endforeach()
  endif()
endfunction()
files_in_memory(power_loss)
if(GIGAGPT_SANITIZE)
  files_in_memory(check engine gpt)
endif()

# Memory from malloc is filled with ones first: reading it shows.
set_property(TEST ops APPEND PROPERTY ENVIRONMENT MALLOC_PERTURB_=1)
if(GIGAGPT_SANITIZE)
  # Whole runs take very long with our own products instrumented; the ops' tests have those.
  set_property(TEST cli_0 cli_1 APPEND PROPERTY ENVIRONMENT GIGAGPT_MAX_CPU=avx2)
endif()

if(NOT GIGAGPT_SANITIZE)  # which would take most of the time to start
  room_test(coordinates TENSORS LABEL slow SOURCES gpt/coordinates_test.cpp LIBRARIES check_gpt)
  room_test(law_watch TENSORS LABEL slow SOURCES cli/law_watch_test.cpp LIBRARIES plot gpt)
  room_test(schedule LABEL slow SOURCES engine/storage/schedule_test.cpp LIBRARIES storage)
  room_test(kills TENSORS LABEL slow SOURCES gpt/kill_test.cpp LIBRARIES gpt)
  room_test(systems TENSORS LABEL slow SOURCES gpt/optimizer_table_test.cpp gpt/systems_test.cpp LIBRARIES gpt)
  room_test(systems_programs LABEL slow SHARDS 2 SOURCES cli/systems_test.cpp LIBRARIES arguments)
  add_dependencies(systems_programs_test gigagpt gigagpt-compute)
  room_test(surroundings LABEL slow SHARDS 2 SOURCES cli/endings_test.cpp cli/surroundings_test.cpp
            LIBRARIES resume)
  add_dependencies(surroundings_test gigagpt gigagpt-compute)

  # What runs in threads of its own, with ThreadSanitizer. Without LibTorch, whose OpenMP it does
  # not understand; all of it is compiled once more.
  get_target_property(STREAMING_SOURCES storage SOURCES)
  foreach(library systems state)
    get_target_property(sources ${library} SOURCES)
    list(APPEND STREAMING_SOURCES ${sources})
  endforeach()
  add_executable(race_test engine/storage/file_storage_race_test.cpp ${STREAMING_SOURCES}
    formats/json.cpp base/async_file.cpp base/control_groups.cpp base/error.cpp base/file.cpp base/lock.cpp base/option.cpp base/system.cpp
    base/trace.cpp
    base/transfer_engines.cpp ops/compact.cpp ops/update_alone.cpp ops/kernels/codes.cpp
    ops/kernels/optimizer.cpp ops/optimizers/list.cpp)
  set_source_files_properties(ops/compact.cpp ops/update_alone.cpp ops/kernels/codes.cpp
                              ops/kernels/optimizer.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  target_compile_options(race_test PRIVATE -O1 -fsanitize=thread -g1)
  target_compile_definitions(race_test PRIVATE
                             HWY_DISABLED_TARGETS=\(HWY_SSSE3|HWY_SSE4|HWY_AVX3_DL\))
  target_link_options(race_test PRIVATE -fsanitize=thread)
  target_link_libraries(race_test PRIVATE fmt::fmt nlohmann_json::nlohmann_json hwy::hwy
                        ${ISAL_LIBRARY} ${URING_LIBRARY} GTest::gtest_main)
  add_test(NAME races COMMAND race_test)
  describe_test(races slow FALSE)
  files_in_memory(kills systems)
  # The longest begin first.
  set_tests_properties(systems schedule PROPERTIES COST 200)
endif()

# The same tests as on CPUs without AVX-512, unless this is one, and without AVX2.
set(ENVIRONMENT_avx2 GIGAGPT_MAX_CPU=avx2 ONEDNN_MAX_CPU_ISA=AVX2)
set(ENVIRONMENT_baseline GIGAGPT_MAX_CPU=baseline ONEDNN_MAX_CPU_ISA=SSE41)
set(OTHER_CPUS baseline)
file(STRINGS /proc/cpuinfo AVX512 REGEX "^flags.* avx512f" LIMIT_COUNT 1)
if(AVX512)
  list(APPEND OTHER_CPUS avx2)
endif()
set(ROOMS_BY_CPU ops engine gpt)
if(GIGAGPT_SANITIZE)
  set(ROOMS_BY_CPU ops)  # where the code differs
endif()
foreach(room ${ROOMS_BY_CPU})
  foreach(cpu ${OTHER_CPUS})
    # What a disk does is the same on each.
    add_test(NAME ${room}_${cpu} COMMAND ${room}_test --gtest_filter=-FileStorageFaults.*)
    describe_test(${room}_${cpu} slow FALSE)
    set_property(TEST ${room}_${cpu} APPEND PROPERTY ENVIRONMENT ${ENVIRONMENT_${cpu}})
    files_in_memory(${room}_${cpu})
  endforeach()
endforeach()

# PyTorch, of Debian's own Python.
find_program(DEBIAN_PYTHON python3 PATHS /usr/bin NO_DEFAULT_PATH)
execute_process(COMMAND ${DEBIAN_PYTHON} -c "import torch" RESULT_VARIABLE NO_PYTORCH
                OUTPUT_QUIET ERROR_QUIET)
if(DEBIAN_PYTHON AND NO_PYTORCH EQUAL 0)
  # Models as other programs write them, and what PyTorch makes of them.
  add_test(NAME hf_models COMMAND ${DEBIAN_PYTHON} ${CMAKE_SOURCE_DIR}/tools/hf_models.py
           ${CMAKE_BINARY_DIR}/hf_models)
  describe_test(hf_models slow TRUE)
  room_test(import TENSORS LABEL slow SOURCES gpt/import_test.cpp LIBRARIES gpt)
  set_tests_properties(hf_models PROPERTIES FIXTURES_SETUP hf_models)
  set_tests_properties(import PROPERTIES FIXTURES_REQUIRED hf_models)
endif()

# The rest is the same whatever the build, so one is enough.
if(GIGAGPT_SANITIZE)
  return()
endif()

# PyTorch computes the fixtures again; they must not have drifted from the script.
if(DEBIAN_PYTHON AND NO_PYTORCH EQUAL 0)
  add_test(NAME pytorch_reference COMMAND ${DEBIAN_PYTHON}
           ${CMAKE_SOURCE_DIR}/tools/reference.py --check ${CMAKE_SOURCE_DIR}/gpt/testdata)
  describe_test(pytorch_reference slow TRUE)
endif()

# What guards what, as clang sees it.
find_program(CLANG clang++)
if(CLANG)
  add_test(NAME thread_safety COMMAND ${CMAKE_SOURCE_DIR}/tools/thread_safety.sh)
  describe_test(thread_safety quick TRUE)
endif()

# The changes that a document walks through.
find_program(GIT git)
if(GIT AND CMAKE_GENERATOR STREQUAL "Ninja")
  add_test(NAME change_the_model
           COMMAND ${CMAKE_SOURCE_DIR}/tools/change_the_model.sh ${CMAKE_BINARY_DIR})
  describe_test(change_the_model slow TRUE)
endif()

# Hostile input to every reader, in a build of its own as libFuzzer is clang's.
if(CLANG)
  add_custom_target(fuzz_targets ALL COMMAND ${CMAKE_SOURCE_DIR}/fuzz/run --only-build
                    --build ${CMAKE_BINARY_DIR}/fuzz USES_TERMINAL VERBATIM)
  add_test(NAME fuzz COMMAND ${CMAKE_SOURCE_DIR}/fuzz/run --build ${CMAKE_BINARY_DIR}/fuzz)
  describe_test(fuzz slow FALSE)
endif()

# Programs from npm that read what is written here, and cut text alike.
find_program(NODE node)
find_program(NPM npm)
set(NO_NODE 1)
if(NODE AND NPM)
  execute_process(COMMAND ${NODE} -e "process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)"
                  RESULT_VARIABLE NO_NODE)
endif()
if(NO_NODE EQUAL 0)
  add_test(NAME tokenizer_interop
           COMMAND ${CMAKE_SOURCE_DIR}/tools/interop/tokenizer/check.sh ${CMAKE_BINARY_DIR})
  describe_test(tokenizer_interop slow FALSE)
endif()
# llama.cpp, prebuilt for x86-64 in an npm package, runs what `export` writes.
if(NO_NODE EQUAL 0 AND NO_PYTORCH EQUAL 0 AND CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  add_test(NAME llama_interop
           COMMAND ${CMAKE_SOURCE_DIR}/tools/interop/llama/test.sh ${CMAKE_BINARY_DIR})
  describe_test(llama_interop slow TRUE)
endif()
