/** What this project uses of the fuse-native package, which brings no types. */
declare module "fuse-native" {
  class Fuse {
    /** Only the truth of `operations[name]` matters here: the `_op_` methods are replaced. */
    constructor(
      mountpoint: string,
      operations: Record<string, unknown>,
      options: { fsname: string; timeout: false },
    );
    /**
     * By opcode, what C calls for an operation. `locals` lies over the C struct
     * `fuse_thread_locals_t` of the calling thread, which sleeps until it is answered.
     */
    _handlers: (
      ((locals: Buffer, opcode: number, ...args: readonly unknown[]) => void) | undefined
    )[];
    /** Memory for the locals of a new thread of libfuse. */
    _malloc(bytes: number): Buffer;
    mount(done: (error: Error | null | undefined) => void): void;
  }
  export = Fuse;
}
