# SPDX-License-Identifier: Apache-2.0
puts "Hello from Ruby!"
puts "arguments: #{ARGV.join(' ')}"
puts "NAME=#{ENV['NAME']}"

text = $stdin.read
puts "stdin: #{text.bytesize} bytes, #{text.count("\n")} lines"

poem = File.open("/data/poem.txt", &:readline)
puts "poem: #{poem}"

exit 3 if ARGV.include?("fail")
