# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks for the readers of marks: real images, bytes in memory, and a target that knows reservations."""

from __future__ import annotations

import base64
import errno
import struct
import subprocess
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from enforcer.storage.vetoes import mmp
from enforcer.storage.vetoes.reservation import Action

# The first 8 KiB of a disk after pvcreate and vgcreate of LVM 2.03.16, with the system ID "ha1".
PV = zlib.decompress(
    base64.b85decode(
        "c-rk)TTj$L6c+WxzUV*jq{IluS=#P}E(ykEDY&u=xVu0=NmIJh-"
        "I2Caddni=!QbM8|IYXi^i0dmh`#w?m~YecT;^Qn%$ZGk?%k8P%jmXNtnSvPHFLqQq~E@Pkni>k&@_E-t7G-e$TPia$KTt3JE$FGY5U#4o9-"
        "BskCul^AC{I+{vPO3{r&N+>ihW2$m5WZkdTm&kdTm&kdXLicr*OkhT>yy`o7+J7HgX?Ud`P0y>`ER{diEm`=6i2vU>kNf^j~EGlh*{8PtR0dcN<H"
        "X|UQRQ75R9op$elY@F2A$XZ9w2#fe|M^lxAo`f6?bj9Ow;H1LV&jSNBsgq_2^6%BYHRv2zt(C5&z69i2tLmZR`Odgh@AW%F%kFNqH!Pt@PLq@dcA"
        "3Y-(N%>`QyQjr!ah-ynR?Su0%vObIdWP-Mi(Saosp9|w#y?%lR~CMlhcH`j&JAO&jOU5p)A*~wpz|Lh!|`TG1(wuv_ZsdgNWe<DW@B%GNL(iMFQ#"
        "qk_$fP5f<R)K3iSfL~B@V^u`7ch3RGXdR5mJ4JD#B8pfhthE_8L@A51Zyk1w%@u%Q33+ptbv6Ipf9G#YzGpBLFcnC&Ct5)>JoG}k`hGrN<s}tRvU"
        "xGmv!Y0qbFhE~isxB_+CdM!tisJH66jCIm4zZ}PR-V~zQ5aZ{c^0Y4WdL!gn0eyHEJ{m(x)-"
        "yQf*11u^06CJ%nS$_#SD#n?u;<c5Cs^>V`F$;mJBNnBNi`zC<^yMg~WBjYmOhK4h!vat?jcUwM76sL&>rRSwb&#iN}13644HEhzELM!a|SR3D07e"
        "qSugz6uq9qk>eg`5ymbFG<0Hjf|(+94r8AmIX-HIf9%+Z`~C<uSKW8*5w$+Y1}eN36q;SF!v)x+LiZesD|Fo*6>N{9NLW34!js~5<bnEV7P>6Vrj"
        "Q5FsOV;;RwJHE@<yWxvpNiV+pyiYtlsv}Ufthp^*U{Mt-;i6*p1q+4(;DB%auN5LD6uF&3d)b)T$<i{c~@~|33){2?+@a35mOgpM>;UVg"
    )
)


@dataclass
class Image:
    """A disk in memory, written over an image that is shared; it counts what is read of it."""

    base: bytes
    size: int = -1
    pokes: list[tuple[int, bytes]] = field(default_factory=list)
    answers: dict[Action, bytes | None] = field(default_factory=dict)
    broken: bool = False
    reads: int = 0
    bytes_read: int = 0

    @classmethod
    def of(cls, path: Path) -> Image:
        return cls(path.read_bytes())

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and length > 0
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        data = self.peek(offset, length)
        self.reads, self.bytes_read = self.reads + 1, self.bytes_read + len(data)
        return data

    def peek(self, offset: int, length: int) -> bytes:
        end = min(offset + length, len(self.base) if self.size < 0 else self.size)
        data = bytearray(self.base[offset : max(end, offset)])
        for at, piece in self.pokes:
            low, high = max(at, offset), min(at + len(piece), offset + len(data))
            if low < high:
                data[low - offset : high - offset] = piece[low - at : high - at]
        return bytes(data)

    def reserve_in(self, action: Action) -> bytes | None:
        return self.answers.get(action)

    def poke(self, offset: int, data: bytes) -> Image:
        self.pokes.append((offset, data))
        return self


def make(path: Path, size: int, *command: str) -> Path:
    """A file of ``size`` bytes, and a program run on it (``{}`` is its path)."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([word.replace("{}", str(path)) for word in command], check=True, capture_output=True, timeout=60)
    return path


class Ext4(Image):
    """An ext4 with MMP, and the hand of a node that mounts it (write_mmp_block, fs/ext4/mmp.c)."""

    @property
    def block_at(self) -> int:
        log_size, block = struct.unpack_from("<I332xQ", self.base, 1024 + 0x18)
        return int(block) * (1024 << log_size)

    def mounted(self, node: str, *, seq: int = 30, time_s: int = 1_800_000_000, device: str = "sda1") -> Ext4:
        at = self.block_at
        self.poke(at + 4, struct.pack("<IQ64s32s", seq, time_s, node.encode(), device.encode()))
        seed = mmp.crc32c(self.peek(1024 + 0x68, 16), 0xFFFFFFFF)
        self.poke(at + 1020, struct.pack("<I", mmp.crc32c(self.peek(at, 1020), seed)))
        return self
