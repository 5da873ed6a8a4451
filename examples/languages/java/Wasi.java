// SPDX-License-Identifier: Apache-2.0
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import org.teavm.backend.wasm.wasi.IOVec;
import org.teavm.backend.wasm.wasi.SizeResult;
import org.teavm.interop.Address;
import org.teavm.interop.Import;

/**
 * What TeaVM's class library leaves out for WASI: System.getenv, System.in and System.exit.
 * An address is taken only after all is allocated, because an allocation may move arrays.
 */
final class Wasi {
    private Wasi() {
    }

    static String getenv(String name) {
        int[] sizes = new int[2];
        environSizesGet(Address.ofData(sizes), Address.ofData(sizes).add(4));
        int[] pointers = new int[sizes[0]];
        byte[] text = new byte[sizes[1]];
        environGet(Address.ofData(pointers), Address.ofData(text));
        for (String entry : new String(text, StandardCharsets.UTF_8).split("\0")) {
            if (entry.startsWith(name + "=")) {
                return entry.substring(name.length() + 1);
            }
        }
        return null;
    }

    static final class Input extends InputStream {
        @Override
        public int read() throws IOException {
            byte[] one = new byte[1];
            return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
        }

        @Override
        public int read(byte[] bytes) throws IOException {
            return read(bytes, 0, bytes.length);
        }

        @Override
        public int read(byte[] bytes, int offset, int length) throws IOException {
            if (length == 0) {
                return 0;
            }
            int[] vectorData = new int[2];
            long[] countData = new long[1];
            IOVec vector = Address.ofData(vectorData).toStructure();
            SizeResult count = Address.ofData(countData).toStructure();
            vector.buffer = Address.ofData(bytes).add(offset);
            vector.bufferLength = length;
            short errno = org.teavm.backend.wasm.wasi.Wasi.fdRead(0, vector, 1, count);
            if (errno != 0) {
                throw new IOException("cannot read stdin: errno " + errno);
            }
            int read = (int) count.value;
            return read == 0 ? -1 : read;
        }
    }

    @Import(module = "wasi_snapshot_preview1", name = "proc_exit")
    static native void exit(int status);

    @Import(module = "wasi_snapshot_preview1", name = "environ_sizes_get")
    private static native int environSizesGet(Address count, Address size);

    @Import(module = "wasi_snapshot_preview1", name = "environ_get")
    private static native int environGet(Address pointers, Address text);
}
