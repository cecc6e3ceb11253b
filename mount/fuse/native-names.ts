/**
 * Names between bytes (the filesystem's) and text (fuse-native's).
 *
 * fuse-native turns every path into a JavaScript string and back, so bytes that are not UTF-8 would
 * be lost. Towards the kernel each byte 0xNN of a name that is not UTF-8 is therefore shown as
 * U+F7NN (private use, U+F780 to U+F7FF); from the kernel it is taken back. Characters that would
 * make this ambiguous (U+F780 to U+F7FF themselves, and U+FFFD, which is also what a string has in
 * place of bad bytes) are shown as their three bytes in the same way. So both directions are one to
 * one, and every name can be reached.
 */

import { isUtf8 } from "node:buffer";
import { StatusError } from "../../protocol/status.ts";

const escapeBase = 0xf700;
const replacement = 0xfffd;
const special = /[\uf780-\uf7ff\ufffd]/;

/** The text that stands for `bytes` towards the kernel. Never fails. */
export function textFromBytes(bytes: Buffer): string {
  const text = bytes.toString("utf8");
  if (!special.test(text)) return text; // Valid UTF-8 without special characters: nearly always.
  let escaped = "";
  for (let at = 0; at < bytes.length;) {
    const count = characterBytes(bytes, at);
    const character = bytes.toString("utf8", at, at + count);
    if (count === 0) {
      escaped += String.fromCharCode(escapeBase + byteAt(bytes, at));
      at += 1;
    } else if (special.test(character)) {
      for (let i = at; i < at + count; i++)
        escaped += String.fromCharCode(escapeBase + byteAt(bytes, i));
      at += count;
    } else {
      escaped += character;
      at += count;
    }
  }
  return escaped;
}

/** The inverse of `textFromBytes`; `bad-name` (EILSEQ) for text that it never makes. */
export function bytesFromText(text: string): Buffer {
  if (!special.test(text)) return Buffer.from(text, "utf8");
  const pieces: Buffer[] = [];
  for (const character of text) {
    const code = character.codePointAt(0) ?? replacement;
    // The kernel sent bytes that are not UTF-8: which ones is lost, and guessing could hit a wrong
    // file.
    if (code === replacement) throw badName("a name that is not UTF-8");
    const escape = special.test(character);
    pieces.push(escape ? Buffer.of(code - escapeBase) : Buffer.from(character, "utf8"));
  }
  const bytes = Buffer.concat(pieces);
  if (textFromBytes(bytes) !== text) throw badName("escapes of bytes that are UTF-8");
  return bytes;
}

/** How many bytes the UTF-8 character at `at` has; 0 when there is none. */
function characterBytes(bytes: Buffer, at: number): number {
  const lead = byteAt(bytes, at);
  const count = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (count === 0 || at + count > bytes.length) return 0;
  return isUtf8(bytes.subarray(at, at + count)) ? count : 0;
}

function byteAt(bytes: Buffer, at: number): number {
  return bytes.readUInt8(at);
}

function badName(what: string): StatusError {
  return new StatusError("bad-name", `${what} (fuse-native cannot pass it on)`);
}
