// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

int main(int argc, char **argv) {
  std::cout << "Hello from C++!\n";

  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::cout << "arguments:";
  for (const auto &argument : arguments) std::cout << ' ' << argument;
  std::cout << '\n';

  const char *name = std::getenv("NAME");
  std::cout << "NAME=" << (name ? name : "") << '\n';

  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  std::cout << "stdin: " << input.size() << " bytes, " << std::count(input.begin(), input.end(), '\n') << " lines\n";

  // The C++ library for WASI has no file streams.
  const std::unique_ptr<std::FILE, int (*)(std::FILE *)> poem(std::fopen("/data/poem.txt", "r"), std::fclose);
  char line[256];
  if (!poem || !std::fgets(line, sizeof line, poem.get())) {
    std::cerr << "/data/poem.txt: cannot be read\n";
    return 1;
  }
  std::cout << "poem: " << line << std::flush;

  return std::find(arguments.begin(), arguments.end(), "fail") == arguments.end() ? 0 : 3;
}
