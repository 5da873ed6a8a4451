// SPDX-License-Identifier: Apache-2.0
import java.io.BufferedReader;
import java.io.FileReader;
import java.io.IOException;
import java.io.InputStream;

public final class Main {
    public static void main(String[] args) throws IOException {
        System.out.println("Hello from Java!");
        System.out.println("arguments: " + String.join(" ", args));
        System.out.println("NAME=" + Wasi.getenv("NAME"));

        InputStream stdin = new Wasi.Input();
        byte[] buffer = new byte[65536];
        long bytes = 0;
        long lines = 0;
        for (int n = stdin.read(buffer); n > 0; n = stdin.read(buffer)) {
            bytes += n;
            for (int i = 0; i < n; i++) {
                if (buffer[i] == '\n') {
                    lines++;
                }
            }
        }
        System.out.println("stdin: " + bytes + " bytes, " + lines + " lines");

        try (BufferedReader poem = new BufferedReader(new FileReader("/data/poem.txt"))) {
            System.out.println("poem: " + poem.readLine());
        }
        for (String arg : args) {
            if (arg.equals("fail")) {
                Wasi.exit(3);
            }
        }
    }
}
