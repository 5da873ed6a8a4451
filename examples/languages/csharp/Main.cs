// SPDX-License-Identifier: Apache-2.0
using System;
using System.IO;

static class Program
{
    static int Main(string[] args)
    {
        Console.WriteLine("Hello from C#!");
        Console.WriteLine("arguments: " + string.Join(" ", args));
        Console.WriteLine("NAME=" + Environment.GetEnvironmentVariable("NAME"));

        long bytes = 0;
        long lines = 0;
        byte[] buffer = new byte[65536];
        using (Stream stdin = Console.OpenStandardInput())
        {
            for (int n = stdin.Read(buffer, 0, buffer.Length); n > 0; n = stdin.Read(buffer, 0, buffer.Length))
            {
                bytes += n;
                for (int i = 0; i < n; i++)
                {
                    if (buffer[i] == '\n')
                    {
                        lines++;
                    }
                }
            }
        }
        Console.WriteLine($"stdin: {bytes} bytes, {lines} lines");

        using (StreamReader poem = new StreamReader("/data/poem.txt"))
        {
            Console.WriteLine("poem: " + poem.ReadLine());
        }
        return Array.IndexOf(args, "fail") >= 0 ? 3 : 0;
    }
}
